//! One line for each decision, at target `audit`: who, from where, how, what became of it. Never a secret:
//! neither tokens nor signatures nor passwords reach this module.

use jiff::Timestamp;

use crate::{claims::AuthorizationRequest, decide::Decision, login::Kind};

/// What is said of one decision.
#[derive(Debug)]
pub struct Line<'a> {
    /// Kind of the login.
    pub login: Kind,
    /// The key that the client showed, or the user name that it gave; proved or not.
    pub claimed: &'a str,
    /// Whom a verified token named.
    pub token_subject: Option<&'a str>,
    /// What became of it.
    pub decision: &'a Decision,
    /// When an admitted user ends.
    pub expires: Option<Timestamp>,
}

/// Longest text of a client that is repeated.
const CLAIMED: usize = 120;

impl Line<'_> {
    /// Writes it.
    pub fn write(&self, request: &Asked) {
        let claimed: String = self.claimed.chars().take(CLAIMED).collect();
        let Asked { server, server_name, user_nkey, host, client_id } = request;
        match self.decision {
            Decision::Admit(admission) => tracing::info!(
                target: "audit",
                decision = "admit",
                identity = %admission.identity,
                login = self.login.label(),
                host,
                claimed,
                token_subject = self.token_subject,
                expires = self.expires.map(tracing::field::display),
                client_id,
                server,
                server_name,
                request = user_nkey,
                "authorization"
            ),
            Decision::Refuse(refusal) => tracing::info!(
                target: "audit",
                decision = "refuse",
                reason = refusal.label(),
                why = %refusal,
                login = self.login.label(),
                host,
                claimed,
                token_subject = self.token_subject,
                client_id,
                server,
                server_name,
                request = user_nkey,
                "authorization"
            ),
        }
    }
}

/// Which request it was about.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The server's id.
    pub server: String,
    /// The server's name.
    pub server_name: String,
    /// The user's key at the server: one for each request.
    pub user_nkey: String,
    /// The client's address.
    pub host: String,
    /// The connection's number at the server.
    pub client_id: u64,
}

impl From<&AuthorizationRequest> for Asked {
    fn from(request: &AuthorizationRequest) -> Self {
        Self {
            server: request.server.id.clone(),
            server_name: request.server.name.clone(),
            user_nkey: request.user_nkey.to_string(),
            host: request.client.host.clone(),
            client_id: request.client.id,
        }
    }
}

/// What a client claimed to be, before anything was proved.
pub(crate) fn claimed(nkey: &str, user: &str) -> String {
    match (nkey.is_empty(), user.is_empty()) {
        (true, true) => String::new(),
        (false, true) => nkey.to_owned(),
        (true, false) => user.to_owned(),
        (false, false) => format!("{nkey} as {user}"),
    }
}
