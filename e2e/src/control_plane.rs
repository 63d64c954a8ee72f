//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::binaries::Tools;
use crate::kubectl::Kubectl;
use crate::netns::Network;
use crate::pki::{Pki, Subject};
use crate::process::{Process, Spec};
use crate::wait::Look;

/// The API server's port.
pub const API_PORT: u16 = 6443;

/// How the control plane differs from one scenario to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ControlPlaneOptions {
    /// After how much silence a Node's conditions become `Unknown`. Kubernetes'
    /// default is 40 s (50 s from 1.32); scenarios wait less.
    pub node_monitor_grace_period: Duration,
    /// The cluster's CIDR, if each Node is to get a part of it.
    pub allocate_node_cidrs: Option<String>,
    /// The unix socket of an HTTP CONNECT proxy that the API server must use to reach
    /// nodes, as in k3s.
    pub egress_proxy: Option<PathBuf>,
    /// Requests per second of controller-manager and scheduler; the default of 20 to
    /// 50 makes them the bottleneck of a load test.
    pub component_qps: u32,
}

impl Default for ControlPlaneOptions {
    fn default() -> Self {
        Self {
            node_monitor_grace_period: Duration::from_secs(20),
            allocate_node_cidrs: None,
            egress_proxy: None,
            component_qps: 1000,
        }
    }
}

/// The four processes of a control plane, in the cluster's namespace.
#[derive(Debug)]
pub struct ControlPlane {
    /// The database.
    pub etcd: Process,
    /// The API server.
    pub apiserver: Process,
    /// The controllers.
    pub controller_manager: Process,
    /// The scheduler.
    pub scheduler: Process,
    kubectl: Kubectl,
}

impl ControlPlane {
    /// Describes the control plane of the fleet in `fleet`; starts nothing.
    ///
    /// # Errors
    /// When a server is not built or a configuration cannot be written.
    pub fn new(
        fleet: &Path,
        network: &Network,
        tools: &Tools,
        options: &ControlPlaneOptions,
    ) -> Result<Self> {
        let pki = Pki::open(fleet)?;
        let process = |name: &str, args: Vec<String>| -> Result<Process> {
            let (program, netns) = (tools.path(name)?, Some(network.cluster()));
            Ok(Process::new(fleet, Spec { name: name.into(), program, args, env: BTreeMap::new(), netns }))
        };
        Ok(Self {
            etcd: process("etcd", etcd(fleet))?,
            apiserver: process("kube-apiserver", apiserver(fleet, network, &pki, options)?)?,
            controller_manager: process("kube-controller-manager", controller_manager(&pki, options))?,
            scheduler: process("kube-scheduler", scheduler(&pki, options))?,
            kubectl: Kubectl::new(tools.path("kubectl")?, kubeconfig(fleet), fleet),
        })
    }

    /// Makes every key and certificate that is not there yet, and the kubeconfigs.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn make_keys(fleet: &Path, network: &Network) -> Result<()> {
        let pki = Pki::open(fleet)?;
        if pki.key("service-account").exists() {
            return Ok(());
        }
        pki.authority("cluster-ca")?;
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let addresses = [network.cluster_address(), [127, 0, 0, 1].into(), [10, 96, 0, 1].into()];
        pki.server("cluster-ca", "apiserver", &names, &addresses)?;
        let server = format!("https://{}:{API_PORT}", network.cluster_address());
        for (name, user, group) in [
            ("admin", "kubernetes-admin", Some("system:masters")),
            ("apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters")),
            ("controller-manager", "system:kube-controller-manager", None),
            ("scheduler", "system:kube-scheduler", None),
        ] {
            pki.client("cluster-ca", name, Subject { user, group })?;
            pki.kubeconfig(name, &server, "cluster-ca")?;
        }
        // The last one: its file says that all the others are there.
        pki.key_pair("service-account")
    }

    /// Starts all four and waits until the API server is ready and the scheduler and
    /// the controllers are healthy.
    ///
    /// # Errors
    /// When one of them does not come up, with the end of its log.
    pub async fn start(&self) -> Result<()> {
        self.etcd.start().await?;
        // The API server retries its connection to etcd by itself.
        self.start_apiserver().await?;
        self.controller_manager.start().await?;
        self.scheduler.start().await?;
        // The default service account is the first thing that pods need, and the
        // controller manager makes it once it works.
        self.controller_manager
            .ready(Duration::from_secs(60), async || {
                self.kubectl.run("get serviceaccount default --namespace default").await.map(Look::Done)
            })
            .await?;
        Ok(())
    }

    /// Starts the API server and waits until `/readyz` says ok.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub async fn start_apiserver(&self) -> Result<()> {
        self.apiserver.start().await?;
        self.apiserver
            .ready(Duration::from_secs(90), async || {
                let answer = self.kubectl.ask("get --raw /readyz --request-timeout 5s").await?;
                Ok(match answer.stdout.trim() {
                    "ok" => Look::Done(()),
                    _ => Look::not_yet(answer),
                })
            })
            .await
    }

    /// The processes, in the order in which they are started.
    #[must_use]
    pub fn processes(&self) -> [&Process; 4] {
        [&self.etcd, &self.apiserver, &self.controller_manager, &self.scheduler]
    }
}

/// The administrator's kubeconfig of the fleet in `fleet`.
#[must_use]
pub fn kubeconfig(fleet: &Path) -> PathBuf {
    fleet.join("pki/admin.kubeconfig")
}

fn etcd(fleet: &Path) -> Vec<String> {
    let data = fleet.join("etcd").display().to_string();
    flags(&[
        ("data-dir", &data),
        ("listen-client-urls", "http://127.0.0.1:2379"),
        ("advertise-client-urls", "http://127.0.0.1:2379"),
        ("listen-peer-urls", "http://127.0.0.1:2380"),
        // A throw-away cluster survives a crash of the process, not of the machine.
        ("unsafe-no-fsync", "true"),
        ("log-level", "warn"),
    ])
}

fn apiserver(
    fleet: &Path,
    network: &Network,
    pki: &Pki,
    options: &ControlPlaneOptions,
) -> Result<Vec<String>> {
    let text = |path: PathBuf| path.display().to_string();
    let ca = text(pki.cert("cluster-ca"));
    let mut args = flags(&[
        ("etcd-servers", "http://127.0.0.1:2379"),
        ("bind-address", "0.0.0.0"),
        ("secure-port", &API_PORT.to_string()),
        ("advertise-address", &network.cluster_address().to_string()),
        ("service-cluster-ip-range", "10.96.0.0/16"),
        ("client-ca-file", &ca),
        ("tls-cert-file", &text(pki.cert("apiserver"))),
        ("tls-private-key-file", &text(pki.key("apiserver"))),
        ("service-account-issuer", "https://kubernetes.default.svc"),
        ("service-account-key-file", &text(pki.public("service-account"))),
        ("service-account-signing-key-file", &text(pki.key("service-account"))),
        ("authorization-mode", "Node,RBAC"),
        // Keeps what is written as system:node:<device> to that device's objects.
        ("enable-admission-plugins", "NodeRestriction"),
        ("allow-privileged", "true"),
        ("kubelet-client-certificate", &text(pki.cert("apiserver-kubelet-client"))),
        ("kubelet-client-key", &text(pki.key("apiserver-kubelet-client"))),
        ("kubelet-certificate-authority", &ca),
        ("kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname"),
    ]);
    if let Some(socket) = &options.egress_proxy {
        let path = fleet.join("egress.json");
        let config = serde_json::json!({
            "apiVersion": "apiserver.k8s.io/v1beta1",
            "kind": "EgressSelectorConfiguration",
            "egressSelections": [{
                "name": "cluster",
                "connection": {
                    "proxyProtocol": "HTTPConnect",
                    "transport": { "uds": { "udsName": socket } },
                },
            }],
        });
        fs::create_dir_all(fleet)?;
        fs::write(&path, config.to_string()).context("writing the egress configuration")?;
        args.extend(flags(&[("egress-selector-config-file", &text(path))]));
    }
    Ok(args)
}

fn controller_manager(pki: &Pki, options: &ControlPlaneOptions) -> Vec<String> {
    let text = |path: PathBuf| path.display().to_string();
    let (ca, qps) = (text(pki.cert("cluster-ca")), options.component_qps.to_string());
    let kubeconfig = text(pki.cert("controller-manager").with_extension("kubeconfig"));
    let grace = format!("{}s", options.node_monitor_grace_period.as_secs());
    let mut args = flags(&[
        ("kubeconfig", &kubeconfig),
        ("authentication-kubeconfig", &kubeconfig),
        ("authorization-kubeconfig", &kubeconfig),
        ("bind-address", "127.0.0.1"),
        ("leader-elect", "false"),
        ("use-service-account-credentials", "true"),
        ("root-ca-file", &ca),
        ("service-account-private-key-file", &text(pki.key("service-account"))),
        ("cluster-signing-cert-file", &ca),
        ("cluster-signing-key-file", &text(pki.key("cluster-ca"))),
        ("node-monitor-grace-period", &grace),
        ("node-monitor-period", "2s"),
        ("kube-api-qps", &qps),
        ("kube-api-burst", &qps),
    ]);
    if let Some(cidr) = &options.allocate_node_cidrs {
        args.extend(flags(&[
            ("allocate-node-cidrs", "true"),
            ("cluster-cidr", cidr),
            ("node-cidr-mask-size", "24"),
        ]));
    }
    args
}

fn scheduler(pki: &Pki, options: &ControlPlaneOptions) -> Vec<String> {
    let kubeconfig = pki.cert("scheduler").with_extension("kubeconfig").display().to_string();
    let qps = options.component_qps.to_string();
    flags(&[
        ("kubeconfig", &kubeconfig),
        ("authentication-kubeconfig", &kubeconfig),
        ("authorization-kubeconfig", &kubeconfig),
        ("bind-address", "127.0.0.1"),
        ("leader-elect", "false"),
        ("kube-api-qps", &qps),
        ("kube-api-burst", &qps),
    ])
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
}
