//! Requests to the server: bounded in size, with the token that the caller has, and answers told apart.
//!
//! Logins and renewals are vaultrs'; what it cannot do (a 404 that has a body, check-and-set above 32 bits, PATCH, a
//! limit for answers) goes over the same HTTP client here. See ADR 12.

use std::fmt;

use jiff::Timestamp;
use reqwest::{Method, Url, header};
use serde::Deserialize;
use vaultrs::{
    api::EndpointMiddleware,
    client::{Client, VaultClientSettings, VaultClientSettingsBuilder},
    error::ClientError,
};
use zeroize::Zeroizing;

use super::{
    error::{OpenBaoError, SettingsError, causes, shortened},
    secret::Secret,
};

/// Largest answer, in bytes: more than a request may have, with its JSON around it.
const MAX_ANSWER: usize = 40 * 1024 * 1024;

/// The server, and how it is reached.
pub(super) struct Transport {
    http: reqwest::Client,
    url: Url,
    namespace: Option<String>,
    skip_tls: bool,
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// What the server says of itself without a login.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Health {
    pub(super) initialized: bool,
    pub(super) sealed: bool,
    #[serde(default)]
    pub(super) version: String,
    /// Only Vault says it, from 1.16.
    enterprise: Option<bool>,
}

impl Health {
    /// OpenBao began with 2.0; Vault says from 1.16 which edition it is, and Enterprise says it in the version.
    fn is_openbao(&self) -> bool {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        self.enterprise.is_none() && !self.version.contains("+ent") && major.is_some_and(|major| major >= 2)
    }

    pub(super) fn product(&self) -> String {
        format!("{} {}", if self.is_openbao() { "OpenBao" } else { "Vault" }, shortened(&self.version))
    }

    pub(super) fn has_namespaces(&self) -> bool {
        self.is_openbao() || self.enterprise == Some(true) || self.version.contains("+ent")
    }
}

impl Transport {
    pub(super) fn new(
        url: &str,
        http: reqwest::Client,
        namespace: Option<String>,
        skip_tls: bool,
    ) -> Result<Self, SettingsError> {
        let wrong = |why: &str| SettingsError::Value { name: "url", why: why.to_owned() };
        let url: Url = url.parse().map_err(|_| wrong("it is no URL such as https://bao.example.com:8200"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("it has a user in it; logins have settings of their own"));
        }
        if url.query().is_some() || url.fragment().is_some() || url.path() != "/" {
            return Err(wrong("it has more than a scheme, a host and a port"));
        }
        // Tokens do not go over a network in plain sight.
        let allowed = secure(&url) || (skip_tls && url.scheme() == "http");
        if !allowed {
            return Err(wrong(
                "expected https:// (http:// only for this machine itself, or with `skip-tls`)",
            ));
        }
        if namespace.as_ref().is_some_and(|name| !name.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(SettingsError::Value {
                name: "namespace",
                why: "it has other characters than ASCII".to_owned(),
            });
        }
        Ok(Self { http, url, namespace, skip_tls })
    }

    /// Without a slash at its end.
    pub(super) fn url(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// One request. `path` follows `/v1/` and needs no encoding.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Answer, OpenBaoError> {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.url()));
        request = request.header("X-Vault-Request", "true").header(header::ACCEPT, "application/json");
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(token) = token {
            let value = header::HeaderValue::from_str(token.expose());
            let mut value =
                value.map_err(|_| OpenBaoError::Malformed("the token cannot be sent".to_owned()))?;
            value.set_sensitive(true);
            request = request.header("X-Vault-Token", value);
        }
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, kind).body(body.to_vec());
        }
        let unreachable = |error: reqwest::Error| OpenBaoError::Unreachable(causes(&error.without_url()));
        let mut answer = request.send().await.map_err(unreachable)?;
        let status = answer.status().as_u16();
        if (300..400).contains(&status) {
            let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            return Err(redirected(to.unwrap_or("nowhere")));
        }
        let mut read = Zeroizing::new(Vec::new());
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if read.len() + chunk.len() > MAX_ANSWER {
                return Err(OpenBaoError::Malformed(format!("it has more than {MAX_ANSWER} bytes")));
            }
            read.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body: read })
    }

    /// Needs no login. Sealed and standby are answers, too.
    pub(super) async fn health(&self) -> Result<Health, OpenBaoError> {
        let path = "sys/health?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200";
        let answer = self.send(Method::GET, path, None, None).await?;
        match answer.status {
            200 => answer.json(),
            _ => Err(answer.failure()),
        }
    }

    /// The same client for vaultrs.
    pub(super) fn vaultrs(&self, token: Option<&Secret>) -> Result<Vaultrs, OpenBaoError> {
        let token = token.map_or(String::new(), |token| token.expose().to_owned());
        // Everything is said here: what is not, the builder takes from the environment.
        let mut builder = VaultClientSettingsBuilder::default();
        builder.ca_certs(Vec::new()).identity(None).token("").verify(!self.skip_tls);
        // It is parsed already, so this cannot panic.
        let settings = builder.address(self.url.as_str()).build();
        let settings = settings.map_err(|error| OpenBaoError::Malformed(error.to_string()))?;
        let middle = EndpointMiddleware {
            token,
            version: "v1".to_owned(),
            wrap: None,
            namespace: self.namespace.clone(),
        };
        let http = rustify::clients::reqwest::Client::new(self.url(), self.http.clone());
        Ok(Vaultrs { http, middle, settings })
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Transport")
            .field("url", &self.url())
            .field("namespace", &self.namespace)
            .field("skip_tls", &self.skip_tls)
            .finish_non_exhaustive()
    }
}

/// vaultrs' client on our HTTP client.
pub(super) struct Vaultrs {
    http: rustify::clients::reqwest::Client,
    middle: EndpointMiddleware,
    settings: VaultClientSettings,
}

impl Client for Vaultrs {
    fn http(&self) -> &rustify::clients::reqwest::Client {
        &self.http
    }

    fn middle(&self) -> &EndpointMiddleware {
        &self.middle
    }

    fn settings(&self) -> &VaultClientSettings {
        &self.settings
    }

    fn set_token(&mut self, token: &str) {
        token.clone_into(&mut self.middle.token);
    }
}

impl Drop for Vaultrs {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.middle.token);
    }
}

impl Answer {
    /// What serde says could repeat a value, so only the kind of error is told.
    pub(super) fn json<T: for<'de> Deserialize<'de>>(&self) -> Result<T, OpenBaoError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            OpenBaoError::Malformed(match error.classify() {
                serde_json::error::Category::Data => "a field is missing or has another type".to_owned(),
                _ => format!("it is not JSON (line {}, column {})", error.line(), error.column()),
            })
        })
    }

    /// The errors that it lists, in one line.
    pub(super) fn said(&self) -> String {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<String>,
        }
        match serde_json::from_slice::<Errors>(&self.body) {
            Ok(Errors { errors }) if !errors.is_empty() => shortened(&errors.join("; ")),
            Ok(_) => "nothing more".to_owned(),
            Err(_) => "nothing that can be read".to_owned(),
        }
    }

    /// Why it is no success.
    pub(super) fn failure(&self) -> OpenBaoError {
        failing(self.status, self.said())
    }
}

/// What went wrong in vaultrs.
pub(super) fn of_vaultrs(error: ClientError) -> OpenBaoError {
    use rustify::errors::ClientError as Rest;
    match error {
        ClientError::APIError { code, errors } => failing(code, shortened(&errors.join("; "))),
        ClientError::RestClientError { source } => match source {
            Rest::ServerResponseError { code, .. } if (300..400).contains(&code) => {
                redirected("another server")
            }
            Rest::ServerResponseError { code, .. } => failing(code, "nothing that can be read".to_owned()),
            Rest::RequestError { source, .. } | Rest::ResponseError { source } => {
                let known = source.downcast::<reqwest::Error>();
                OpenBaoError::Unreachable(
                    known.map_or_else(
                        |_| "the request failed".to_owned(),
                        |error| causes(&error.without_url()),
                    ),
                )
            }
            // The others hold what was sent or received.
            _ => OpenBaoError::Malformed("it is none of a store".to_owned()),
        },
        _ => OpenBaoError::Malformed("it is none of a store".to_owned()),
    }
}

fn failing(status: u16, said: String) -> OpenBaoError {
    match status {
        // Both products: `Vault is sealed`.
        503 if said.contains("sealed") => OpenBaoError::Sealed,
        _ => OpenBaoError::Failing { status, said },
    }
}

/// Only whereto: the rest of the URL is not ours to repeat.
fn redirected(to: &str) -> OpenBaoError {
    let to = match to.parse::<Url>() {
        Ok(url) => url.origin().ascii_serialization(),
        Err(_) => shortened(to),
    };
    OpenBaoError::Redirected { to }
}

/// Whether a token may be sent there.
pub(super) fn secure(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    match url.scheme() {
        "https" => true,
        "http" => {
            let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        _ => false,
    }
}

/// `2026-11-21T15:50:35.123456Z`; empty for never.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}
