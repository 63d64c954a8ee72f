//! Every way to log in, once for real.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::binaries::Tools;
use e2e::identity_provider::{Account, CLIENT, IdentityProvider, Place, ROLES_CLAIM};
use e2e::kubectl::Kubectl;
use e2e::pki::{Pki, Subject};
use e2e::process::{Process, Spec};
use e2e::secret_store::SecretStore;
use e2e::wait::Look;
use fleet_daemon::oidc::{MachineLogin, MachineLoginSettings};
use harmony_config::Store as _;
use harmony_config::openbao::{LoginMethod, OpenBao, OpenBaoSettings, PersonError, ProviderError, Secret};
use harmony_config::store::Metadata;
use serde_json::json;
use tokio::net::TcpListener;

use super::{Running, path, vlan};

const PROJECT: &str = "4711";
const AUDIENCE_SCOPE: &str = "urn:zitadel:iam:org:project:id:4711:aud";

/// Writes and reads as whoever the settings log in.
async fn works(settings: &OpenBaoSettings) -> Result<()> {
    let client = OpenBao::new(settings)?;
    let at = path("harmony/Vlan");
    client.put(&at, &vlan(7), None, &Metadata::new()).await?;
    assert_eq!(client.get(&at).await?.context("it is there")?.values, vlan(7));
    Ok(())
}

async fn refused(settings: &OpenBaoSettings, word: &str) -> Result<()> {
    let error = OpenBao::new(settings)?.get(&path("harmony/Vlan")).await.unwrap_err();
    assert!(error.is_absence() && error.to_string().contains(word), "{error}");
    Ok(())
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text.to_owned()))
}

#[tokio::test]
async fn a_token_given_or_in_a_file_that_is_replaced() -> Result<()> {
    let store = Running::start().await?;
    let token = store.token("harmony", json!({ "ttl": "1h" })).await?;
    works(&OpenBaoSettings { token: secret(&token), ..store.without_login() }).await?;

    let file = store.folder.path().join("token");
    std::fs::write(&file, format!("{token}\n"))?;
    let settings = OpenBaoSettings { token_file: Some(file.clone()), ..store.without_login() };
    let (client, at) = (OpenBao::new(&settings)?, path("harmony/Vlan"));
    client.put(&at, &vlan(1), None, &Metadata::new()).await?;
    let next = store.token("harmony", json!({ "ttl": "1h" })).await?;
    std::fs::write(&file, next)?;
    store.admin("POST", "auth/token/revoke", json!({ "token": token })).await?;
    assert_eq!(client.get(&at).await?.context("with the new one")?.values, vlan(1));
    std::fs::write(&file, "two\nlines")?;
    refused(&settings, "characters that no token has").await?;
    std::fs::remove_file(&file)?;
    refused(&settings, "cannot be tried").await
}

#[tokio::test]
async fn a_user_with_a_password_at_a_mount_of_another_name() -> Result<()> {
    let store = Running::start().await?;
    store.admin("POST", "sys/auth/people", json!({ "type": "userpass" })).await?;
    store
        .admin("POST", "auth/people/users/alice", json!({ "password": "p w", "token_policies": "harmony" }))
        .await?;
    let settings = OpenBaoSettings {
        username: Some("alice".into()),
        password: secret("p w"),
        auth_mount: Some("people".into()),
        ..store.without_login()
    };
    works(&settings).await?;
    works(&OpenBaoSettings { auth_mount: Some("auth/people/".into()), ..settings.clone() }).await?;
    refused(&OpenBaoSettings { password: secret("other"), ..settings.clone() }, "is refused").await?;
    refused(&OpenBaoSettings { auth_mount: None, ..settings }, "OPENBAO_AUTH_MOUNT").await
}

#[tokio::test]
async fn a_machine_with_an_approle() -> Result<()> {
    let store = Running::start().await?;
    store.admin("POST", "sys/auth/approle", json!({ "type": "approle" })).await?;
    store.admin("POST", "auth/approle/role/service", json!({ "token_policies": "harmony" })).await?;
    let id = store.admin("GET", "auth/approle/role/service/role-id", json!(null)).await?;
    let secret_id = store.admin("POST", "auth/approle/role/service/secret-id", json!({})).await?;
    let file = store.folder.path().join("secret-id");
    std::fs::write(&file, secret_id["data"]["secret_id"].as_str().context("no secret id")?)?;
    let settings = OpenBaoSettings {
        role_id: Some(id["data"]["role_id"].as_str().context("no role id")?.to_owned()),
        secret_id_file: Some(file),
        ..store.without_login()
    };
    works(&settings).await?;
    let wrong = OpenBaoSettings { secret_id_file: None, secret_id: secret("wrong"), ..settings };
    refused(&wrong, "the login approle").await
}

/// The provider, and the store that trusts it.
async fn provider_for(store: &SecretStore, folder: &std::path::Path) -> Result<Provider> {
    let provider =
        IdentityProvider::new(folder, "provider", Place::on_loopback().await?, &Tools::locate().await?)?;
    provider.start().await?;
    let provider = Provider(provider);
    store.admin("POST", "sys/auth/zitadel", json!({ "type": "jwt" })).await?;
    let config = json!({
        "oidc_discovery_url": provider.0.issuer(),
        "oidc_discovery_ca_pem": std::fs::read_to_string(provider.0.ca_file())?,
    });
    store.admin("POST", "auth/zitadel/config", config).await?;
    for role in ["config.write", "device"] {
        let role_settings = json!({
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": [PROJECT],
            // Zitadel's claim is an object: each role has the organizations that granted it.
            "bound_claims": { format!("/{ROLES_CLAIM}/{role}/1"): "fleet.example.com" },
            "token_policies": ["harmony"],
            "token_ttl": "10m",
        });
        store.admin("POST", &format!("auth/zitadel/role/{role}"), role_settings).await?;
    }
    Ok(provider)
}

struct Provider(IdentityProvider);

impl Drop for Provider {
    fn drop(&mut self) {
        self.0.kill();
    }
}

#[tokio::test]
async fn a_machine_with_a_signed_token_in_a_file() -> Result<()> {
    let store = Running::start().await?;
    let provider = provider_for(&store, &store.folder.path().join("id")).await?;
    provider
        .0
        .put(&Account { id: "pi-7".into(), roles: vec!["device".into()], ..Account::default() })
        .await?;
    let machine = MachineLogin::new(MachineLoginSettings {
        issuer: provider.0.issuer(),
        client_id: None,
        audience: None,
        scopes: vec!["openid".into(), AUDIENCE_SCOPE.into()],
        key_file: Some(provider.0.register_key("pi-7").await?),
        client_secret_file: None,
        ca_file: Some(provider.0.ca_file()),
    })?;
    let file = store.folder.path().join("jwt");
    std::fs::write(&file, machine.token().await?.secret())?;
    let settings = OpenBaoSettings {
        jwt_file: Some(file.clone()),
        role: Some("device".into()),
        auth_mount: Some("zitadel".into()),
        ..store.without_login()
    };
    works(&settings).await?;
    refused(&OpenBaoSettings { role: Some("config.write".into()), ..settings.clone() }, "the login jwt")
        .await?;
    std::fs::write(&file, "e30.e30.e30")?;
    refused(&settings, "auth/zitadel is refused").await
}

#[tokio::test]
async fn a_person_confirms_a_code_once_and_stays_logged_in() -> Result<()> {
    let store = Running::start().await?;
    let provider = provider_for(&store, &store.folder.path().join("id")).await?;
    let alice = Account { id: "alice".into(), roles: vec!["config.write".into()], ..Account::default() };
    // Shorter than the margin: it has to be renewed each time.
    provider.0.put(&Account { lifetime_seconds: 30, ..alice.clone() }).await?;
    let cache = store.folder.path().join("home/harmony");
    let settings = OpenBaoSettings {
        oidc_issuer: Some(provider.0.issuer()),
        oidc_client_id: Some(CLIENT.into()),
        oidc_scopes: Some(vec![AUDIENCE_SCOPE.into()]),
        oidc_ca_file: Some(provider.0.ca_file()),
        auth_mount: Some("zitadel".into()),
        cache_folder: Some(cache.clone()),
        ..store.without_login()
    };
    // A service does not wait for a person.
    refused(&settings, "nobody is logged in").await?;

    let client = OpenBao::new(&settings)?;
    assert!(matches!(
        confirm(&client, &provider.0, "alice", false).await?,
        Err(ProviderError::Person(PersonError::Denied))
    ));
    let who = confirm(&client, &provider.0, "alice", true).await??;
    assert_eq!((who.subject.as_deref(), who.renewable), (Some("alice"), true));
    assert_eq!(who.roles, ["config.write"], "from Zitadel's claim, which is the role that is asked for");
    let file = cache.join("openbao-login.json");
    let kept = std::fs::read_to_string(&file)?;
    assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&cache)?.permissions().mode() & 0o777, 0o700);
    let at = path("harmony/Vlan");
    client.put(&at, &vlan(1), None, &Metadata::new()).await?;
    let renewed = std::fs::read_to_string(&file)?;
    assert_ne!(renewed, kept, "the provider's token was renewed");

    // Other programs of the user, two at once, and each refresh token is good once.
    let (one, other) = (OpenBao::new(&settings)?, OpenBao::new(&settings)?);
    let (one, other) = tokio::join!(one.get(&at), other.get(&at));
    assert!(one?.is_some() && other?.is_some());
    assert!(!format!("{client:?}").contains("eyJ"));

    // Who has no role, or two, has to say which one.
    provider.0.put(&Account { roles: vec!["config.write".into(), "device".into()], ..alice.clone() }).await?;
    refused(&settings, "several roles, config.write, device; set `role`").await?;
    works(&OpenBaoSettings { role: Some("config.write".into()), ..settings.clone() }).await?;
    let id_token =
        OpenBaoSettings { oidc_token: Some(harmony_config::openbao::ProviderToken::Id), ..settings.clone() };
    refused(&id_token, "several roles").await?;

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    refused(&settings, "others may read it").await?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    let other = OpenBaoSettings { oidc_client_id: Some("another".into()), ..settings.clone() };
    refused(&other, "nobody is logged in").await?;
    assert!(client.log_out().await?);
    refused(&settings, "nobody is logged in").await
}

async fn confirm(
    client: &OpenBao,
    provider: &IdentityProvider,
    account: &str,
    approve: bool,
) -> Result<Result<harmony_config::openbao::Who, ProviderError>> {
    let (shown, seen) = tokio::sync::oneshot::channel();
    let shown = Arc::new(Mutex::new(Some(shown)));
    let mut show = move |verification: &harmony_config::openbao::Verification| {
        shown.lock().unwrap().take().unwrap().send(verification.clone()).unwrap();
    };
    let decide = async {
        let verification = seen.await?;
        provider.decide(&verification.code, account, approve).await
    };
    let (who, decided) = tokio::join!(client.log_in(&mut show), decide);
    decided?;
    Ok(who)
}

/// etcd and the API server, without controllers and nodes: enough to make service accounts and to review tokens.
struct Cluster {
    etcd: Process,
    apiserver: Process,
    kubectl: Kubectl,
    url: String,
    pki: Pki,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.apiserver.signal(rustix::process::Signal::KILL);
        self.etcd.signal(rustix::process::Signal::KILL);
    }
}

impl Cluster {
    async fn start(folder: &std::path::Path) -> Result<Self> {
        let (tools, pki, address) = (Tools::locate().await?, Pki::open(folder)?, Ipv4Addr::LOCALHOST);
        pki.authority("cluster-ca")?;
        pki.server("cluster-ca", "apiserver", &["localhost"], &[address])?;
        pki.client("cluster-ca", "admin", Subject { user: "admin", group: Some("system:masters") })?;
        pki.key_pair("service-account")?;
        let listeners = [
            TcpListener::bind((address, 0)).await?,
            TcpListener::bind((address, 0)).await?,
            TcpListener::bind((address, 0)).await?,
        ];
        let mut ports = Vec::new();
        for listener in &listeners {
            ports.push(listener.local_addr()?.port());
        }
        drop(listeners);
        let url = format!("https://{address}:{}", ports[2]);
        let kubeconfig = pki.kubeconfig("admin", &url, "cluster-ca")?;
        let kubectl = Kubectl::new(tools.path("kubectl")?, kubeconfig, folder);
        let process = |name: &str, args: Vec<String>| {
            let program = tools.path(name)?;
            anyhow::Ok(Process::new(
                folder,
                Spec { name: name.into(), program, args, env: BTreeMap::new(), netns: None },
            ))
        };
        let database = format!("http://{address}:{}", ports[0]);
        let etcd = process(
            "etcd",
            vec![
                format!("--data-dir={}", folder.join("etcd").display()),
                format!("--listen-client-urls={database}"),
                format!("--advertise-client-urls={database}"),
                format!("--listen-peer-urls=http://{address}:{}", ports[1]),
                "--unsafe-no-fsync=true".into(),
                "--log-level=warn".into(),
            ],
        )?;
        let apiserver = process(
            "kube-apiserver",
            vec![
                format!("--etcd-servers={database}"),
                format!("--bind-address={address}"),
                format!("--advertise-address={address}"),
                format!("--secure-port={}", ports[2]),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                format!("--client-ca-file={}", pki.cert("cluster-ca").display()),
                format!("--tls-cert-file={}", pki.cert("apiserver").display()),
                format!("--tls-private-key-file={}", pki.key("apiserver").display()),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                format!("--service-account-key-file={}", pki.public("service-account").display()),
                format!("--service-account-signing-key-file={}", pki.key("service-account").display()),
                "--authorization-mode=RBAC".into(),
                // Nobody makes the default service accounts here.
                "--disable-admission-plugins=ServiceAccount".into(),
                // The endpoint of the service `kubernetes` may be no loopback address, and nobody asks for it.
                "--endpoint-reconciler-type=none".into(),
            ],
        )?;
        let cluster = Self { etcd, apiserver, kubectl, url, pki };
        cluster.etcd.start().await?;
        cluster.apiserver.start().await?;
        cluster
            .apiserver
            .ready(Duration::from_secs(90), async || {
                let answer = cluster.kubectl.ask("get --raw /readyz --request-timeout 5s").await?;
                Ok(match answer.stdout.trim() {
                    "ok" => Look::Done(()),
                    _ => Look::not_yet(answer),
                })
            })
            .await?;
        Ok(cluster)
    }
}

#[tokio::test]
async fn a_pod_with_its_service_account() -> Result<()> {
    let store = Running::start().await?;
    let cluster = Cluster::start(&store.folder.path().join("cluster")).await?;
    let kubectl = &cluster.kubectl;
    kubectl.run("create namespace shop").await?;
    for account in ["cart", "stranger", "reviewer"] {
        kubectl.run(&format!("create serviceaccount {account} --namespace shop")).await?;
    }
    kubectl
        .run("create clusterrolebinding reviewer --clusterrole system:auth-delegator --serviceaccount shop:reviewer")
        .await?;
    let reviewer = kubectl.run("create token reviewer --namespace shop --duration 1h").await?;
    store.admin("POST", "sys/auth/kubernetes", json!({ "type": "kubernetes" })).await?;
    let config = json!({
        "kubernetes_host": cluster.url,
        "kubernetes_ca_cert": std::fs::read_to_string(cluster.pki.cert("cluster-ca"))?,
        "token_reviewer_jwt": reviewer.trim(),
        "disable_local_ca_jwt": true,
    });
    store.admin("POST", "auth/kubernetes/config", config).await?;
    let role = json!({
        "bound_service_account_names": ["cart"],
        "bound_service_account_namespaces": ["shop"],
        "audience": "openbao",
        "token_policies": ["harmony"],
    });
    store.admin("POST", "auth/kubernetes/role/shop", role).await?;
    let file = store.folder.path().join("service-account-token");
    let settings = OpenBaoSettings {
        auth: Some(LoginMethod::Kubernetes),
        role: Some("shop".into()),
        jwt_file: Some(file.clone()),
        ..store.without_login()
    };
    std::fs::write(&file, kubectl.run("create token cart --namespace shop --audience openbao").await?)?;
    works(&settings).await?;
    for (account, audience) in [("stranger", "openbao"), ("cart", "elsewhere")] {
        let token =
            kubectl.run(&format!("create token {account} --namespace shop --audience {audience}")).await?;
        std::fs::write(&file, token)?;
        refused(&settings, "the login kubernetes at auth/kubernetes is refused").await?;
    }
    Ok(())
}
