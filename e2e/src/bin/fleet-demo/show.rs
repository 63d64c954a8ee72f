//! The walk through a running fleet: each command, and what it answers.

use std::time::Duration;

use anyhow::Result;
use e2e::answer::Answer;
use e2e::binaries;
use e2e::device::Device;
use e2e::fleet::Fleet;
use e2e::wait::{Look, until};

/// How long a step may take on a small machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

const PORT: u16 = 8080;

/// Prints a line for the person in front of the terminal.
#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
pub fn say(text: &str) {
    println!("{text}");
}

/// Prints why it did not work.
#[expect(clippy::print_stderr, reason = "printing is what this program is for")]
pub fn say_error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

/// Walks through deployment, logs, changes and a power cut.
///
/// # Errors
/// At the first answer that is not what a user would expect.
pub async fn walk(fleet: &Fleet) -> Result<()> {
    let examples = binaries::repository()?.join("examples");
    let show = Show { fleet };

    title("Two devices became members of the fleet, each with a token");
    for device in fleet.devices() {
        // What bring-up did: shown, and not done again.
        say(&format!("$ fleet device enroll {0} --output {0}.intent.json", device.name));
    }
    show.fleet("device list").await?;

    title("Two devices are two Nodes");
    show.kubectl("get nodes --output wide").await?;

    title("The cluster signed the certificate with which the API server reaches them");
    show.kubectl("get certificatesigningrequests").await?;

    title("The only static credentials: four keys of nats-server, in a Secret");
    show.kubectl("describe secret fleet-nats-auth --namespace harmony-fleet").await?;
    show.fleet("keys nats-init").await?;

    title("A DaemonSet runs on each of them");
    show.kubectl(&format!("apply --filename {}", examples.join("web-daemonset.yaml").display())).await?;
    show.kubectl("rollout status daemonset/web --timeout 2m").await?;
    show.kubectl("get pods --selector app=web --output wide").await?;
    for device in fleet.devices() {
        show.page(device, "/", "hello from version v1").await?;
    }

    title("Their logs, although no device has an open port for them");
    show.kubectl("logs --selector app=web --prefix --tail 3").await?;

    title("A changed ConfigMap reaches the running pods");
    show.page(&fleet.devices()[0], "/greeting/greeting.txt", "Good morning.").await?;
    let patch = r#"{"data":{"greeting.txt":"Good evening.\n"}}"#;
    show.kubectl_args(&["patch", "configmap", "web", "--type", "merge", "--patch", patch]).await?;
    for device in fleet.devices() {
        show.page(device, "/greeting/greeting.txt", "Good evening.").await?;
    }

    title("A Deployment finds its place");
    show.kubectl(&format!("apply --filename {}", examples.join("deployment.yaml").display())).await?;
    show.kubectl("rollout status deployment/ticker --timeout 2m").await?;
    show.kubectl("get pods --selector app=ticker --output wide").await?;
    show.kubectl("logs deployment/ticker --tail 2").await?;

    title("A rolling update");
    show.kubectl("set image daemonset/web web=localhost/hello:v2").await?;
    show.kubectl("rollout status daemonset/web --timeout 2m").await?;
    for device in fleet.devices() {
        show.page(device, "/", "hello from version v2").await?;
    }

    show.power_cut(&fleet.devices()[1]).await?;

    title("The fleet stays up");
    say("  export KUBECONFIG=$(make -s kubeconfig) PATH=$(make -s path):$PATH");
    for device in fleet.devices() {
        say(&format!("  curl http://{}:{PORT}/    # {}", device.address(), device.name));
    }
    say("  kubectl delete node pi-attic    # throws the device out: revoked within seconds");
    say("  fleet device undelete pi-attic  # lets it in again");
    say("  make down");
    Ok(())
}

struct Show<'a> {
    fleet: &'a Fleet,
}

impl Show<'_> {
    /// Shows a `kubectl` command and its answer.
    async fn kubectl(&self, line: &str) -> Result<()> {
        say(&format!("$ kubectl {line}"));
        let answer = self.fleet.kubectl.run(line).await?;
        say(answer.trim_end());
        Ok(())
    }

    /// Shows a line of the `fleet` command and its answer.
    async fn fleet(&self, line: &str) -> Result<()> {
        say(&format!("$ fleet {line}"));
        let answer = self.fleet.command(line).await?.success()?;
        say(answer.trim_end());
        Ok(())
    }

    /// As [`Show::kubectl`], with arguments that hold spaces.
    async fn kubectl_args(&self, args: &[&str]) -> Result<()> {
        let quoted = |arg: &&str| if arg.contains(' ') { format!("'{arg}'") } else { (*arg).to_owned() };
        say(&format!("$ kubectl {}", args.iter().map(quoted).collect::<Vec<_>>().join(" ")));
        say(self.fleet.kubectl.run_args(args).await?.trim_end());
        Ok(())
    }

    /// Shows what a device's web service answers, once it is what it should be.
    async fn page(&self, device: &Device, path: &str, expected: &str) -> Result<()> {
        let answer = until(format!("{} to answer `{expected}`", device.name), PATIENCE, async || {
            let answer = device.curl(PORT, path).await?;
            Ok(if answer.ok() && answer.stdout.contains(expected) {
                Look::Done(answer)
            } else {
                Look::not_yet(answer)
            })
        })
        .await?;
        show_answer(&answer);
        Ok(())
    }

    async fn power_cut(&self, device: &Device) -> Result<()> {
        let name = &device.name;
        title("A device is switched off, and on again");
        say(&format!("# the power of {name} is cut"));
        device.power_off().await?;
        say("# Kubernetes notices the silence by itself (after 20 s here)");
        self.fleet.node_ready(name, "Unknown", PATIENCE).await?;
        self.kubectl("get nodes").await?;
        say(&format!("# the power of {name} is back"));
        device.power_on().await?;
        self.fleet.node_ready(name, "True", PATIENCE).await?;
        self.kubectl("get nodes").await?;
        self.page(device, "/", "hello from version v2").await?;
        self.kubectl("get pods --output wide").await
    }
}

fn title(text: &str) {
    say(&format!("\n=== {text}"));
}

fn show_answer(answer: &Answer) {
    say(&format!("$ {}", answer.command));
    say(answer.stdout.trim_end());
}
