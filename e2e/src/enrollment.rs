//! Enrollment tokens, written as the `fleet` command writes them; scenarios also need odd ones.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use fleet_wire::enrollment::{EnrollmentIntent, EnrollmentToken, TOKENS_NAMESPACE, TokenRecord, token_name};
use fleet_wire::name::DeviceName;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};

use crate::fleet::Fleet;

/// A token to be issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The only name that it enrolls.
    pub device: DeviceName,
    /// Until when from now on.
    pub lifetime: Duration,
    /// Labels for the Node.
    pub labels: BTreeMap<String, String>,
    /// Whether the Node gets the taint.
    pub taint: bool,
    /// Whether the Node reports pods' addresses.
    pub report_pod_ip: bool,
    /// Subject at the identity provider.
    pub subject: Option<String>,
}

impl Issued {
    /// For a device with the taint, for an hour.
    ///
    /// # Errors
    /// When it is no name of a device.
    pub fn for_device(name: &str) -> Result<Self> {
        Ok(Self {
            device: name.parse()?,
            lifetime: Duration::from_secs(3600),
            labels: BTreeMap::new(),
            taint: true,
            report_pod_ip: false,
            subject: None,
        })
    }

    /// Writes the token's Secret and gives what is carried to the device.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn intent(&self, fleet: &Fleet) -> Result<EnrollmentIntent> {
        let token = EnrollmentToken::random();
        let record = TokenRecord {
            token: token.clone(),
            device: self.device.clone(),
            expires: Timestamp::now().checked_add(SignedDuration::try_from(self.lifetime)?)?,
            labels: self.labels.clone(),
            taint: self.taint,
            report_pod_ip: self.report_pod_ip,
            subject: self.subject.clone(),
            used_by: None,
        };
        let secrets: Api<Secret> = Api::namespaced(fleet.client().await?, TOKENS_NAMESPACE);
        secrets.create(&PostParams::default(), &record.secret(TOKENS_NAMESPACE)).await?;
        let keys = fleet.keys()?;
        Ok(EnrollmentIntent {
            device: self.device.clone(),
            nats_url: fleet.nats.url(),
            nats_ca: Some(std::fs::read_to_string(fleet.nats.ca_file())?),
            root_key: keys.root_public()?,
            keys: keys.signed()?,
            token,
            account: None,
        })
    }
}

/// Moves the end of a token's life into the past, as time does.
///
/// # Errors
/// When the token is not there.
pub async fn expire(fleet: &Fleet, token: &EnrollmentToken) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(fleet.client().await?, TOKENS_NAMESPACE);
    let secret = secrets.get(&token_name(&token.id)).await?;
    let mut record = TokenRecord::parse(&secret)?;
    record.expires = Timestamp::now().checked_sub(SignedDuration::from_secs(1))?;
    let mut expired = record.secret(TOKENS_NAMESPACE);
    expired.metadata.resource_version = secret.metadata.resource_version;
    secrets.replace(&token_name(&token.id), &PostParams::default(), &expired).await?;
    Ok(())
}
