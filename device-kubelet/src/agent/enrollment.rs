//! Who this device is, before anything else starts; until it is a member of a fleet, that is all the agent does.

use std::{path::Path, sync::Arc};

use fleet_daemon::credential::{CaSource, DeviceCredential, NkeySeed};
use fleet_wire::{message::DesiredVersion, name::DeviceName};
use jiff::Timestamp;
use tokio::sync::watch;

use super::AgentError;
use crate::{
    enroll::{
        self, CREDENTIAL, EnrollError, Enrollment, Invitation, Wish,
        decide::{self, Profile},
        membership::Membership,
    },
    keys::{self, DeviceKeys, Trust},
    link::standing::Standing,
    local::{AgentStatus, Answers, LocalServer, NatsStatus, SessionStatus},
    pods::PodSummary,
    settings::Settings,
};

/// A member of a fleet.
pub struct Identity {
    /// Its name.
    pub device: DeviceName,
    /// Its keys.
    pub keys: DeviceKeys,
    /// How it reaches NATS.
    pub credential: DeviceCredential,
    /// Membership and trust.
    pub standing: Standing,
}

/// Reads who the device is. If it is no member yet, becomes one first, for as long as that takes.
pub async fn identity(settings: &Settings, local: &LocalServer) -> Result<Identity, AgentError> {
    let data_dir = &settings.data_dir;
    loop {
        let membership = Membership::load(data_dir).map_err(EnrollError::from)?;
        let invited = settings.enrollment_file.as_deref().is_some_and(Path::exists);
        let credential = data_dir.join(CREDENTIAL);
        match decide::profile(settings, &membership, credential.exists(), invited)? {
            Profile::Member { device, root_key } => {
                let keys = DeviceKeys::load_or_create(data_dir)?;
                let mut credential = DeviceCredential::load(&credential).map_err(EnrollError::Credential)?;
                if let Some(url) = &settings.nats_url {
                    // The operator's newest word: a broker can move.
                    credential.nats_url.clone_from(url);
                }
                if let Some(file) = &settings.nats_ca_file {
                    credential.nats_ca = Some(CaSource::File(file.clone()));
                }
                let trust = match &settings.fleet_keys_file {
                    Some(file) => Trust::load_with_file(data_dir, &root_key, file)?,
                    None => Trust::load(data_dir, &root_key)?,
                };
                let standing = Standing::new(data_dir, trust, membership);
                return Ok(Identity { device, keys, credential, standing });
            }
            Profile::Settings { device, nats_url, root_key, keys_file } => {
                let keys = DeviceKeys::load_or_create(data_dir)?;
                let trust = Trust::load_with_file(data_dir, &root_key, &keys_file)?;
                let credential = DeviceCredential {
                    nats_url,
                    nats_ca: settings.nats_ca_file.clone().map(CaSource::File),
                    key: NkeySeed::from_file(&keys::identity_file(data_dir))
                        .map_err(EnrollError::Credential)?,
                    token: None,
                };
                let standing = Standing::new(data_dir, trust, membership);
                return Ok(Identity { device, keys, credential, standing });
            }
            Profile::Enroll(file) => {
                let intent = enroll::read_intent(&file)?;
                enroll(data_dir, intent.into(), local).await?;
                // It holds a token, which is used up now.
                if let Err(error) = std::fs::remove_file(&file) {
                    tracing::warn!(file = %file.display(), %error, "the enrollment file cannot be removed");
                }
            }
            Profile::Request => enroll(data_dir, request(settings)?, local).await?,
        }
    }
}

/// The wish of a device that asks first: all of it stands in its settings.
pub fn request(settings: &Settings) -> Result<Wish, EnrollError> {
    let missing = || EnrollError::Setting { setting: decide::missing(settings) };
    let file = settings.fleet_keys_file.as_ref().ok_or_else(missing)?;
    let text = std::fs::read(file)
        .map_err(|source| EnrollError::Read { file: file.display().to_string(), source })?;
    let keys = serde_json::from_slice(&text)
        .map_err(|source| keys::KeysError::StatementSyntax { path: file.clone(), source })?;
    Ok(Wish {
        device: settings.name.clone().ok_or_else(missing)?,
        nats_url: settings.nats_url.clone().ok_or_else(missing)?,
        nats_ca: settings.nats_ca_file.clone().map(CaSource::File),
        root_key: settings.fleet_root_key.clone().ok_or_else(missing)?,
        keys: Some(keys),
        invitation: Invitation::Request,
        account: None,
    })
}

/// Enrolls, and answers on the local socket meanwhile.
async fn enroll(data_dir: &Path, wish: Wish, local: &LocalServer) -> Result<(), EnrollError> {
    let (name, url) = (wish.device.to_string(), wish.nats_url.clone());
    let enrollment = Enrollment::prepare(data_dir, wish)?;
    tracing::info!(device = name, fingerprint = enrollment.fingerprint(), "this device is not enrolled yet");
    let (progress, seen) = watch::channel("this device is not enrolled yet".to_owned());
    let answers = Enrolling { name, url, started: Timestamp::now(), progress: seen };
    let tell = |news: enroll::talk::Progress| {
        tracing::info!("{news}");
        progress.send_replace(news.to_string());
    };
    tokio::select! {
        enrolled = enrollment.run(tell) => enrolled?,
        () = local.run(Arc::new(answers)) => {}
    }
    tracing::info!("this device is enrolled");
    Ok(())
}

struct Enrolling {
    name: String,
    url: String,
    started: Timestamp,
    progress: watch::Receiver<String>,
}

impl Answers for Enrolling {
    fn status(&self) -> AgentStatus {
        AgentStatus {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revoked: None,
            started: self.started,
            pid: std::process::id(),
            nats: NatsStatus { url: self.url.clone(), connected: false },
            session: SessionStatus {
                open: false,
                since: None,
                cluster_version: None,
                problem: Some(self.progress.borrow().clone()),
            },
            desired: DesiredVersion::default(),
            pods: 0,
            runtime: None,
            conditions: Vec::new(),
        }
    }

    fn pods(&self) -> Vec<PodSummary> {
        Vec::new()
    }

    fn rotate_keys(&self) -> Result<String, String> {
        Err("this device is not enrolled yet".to_owned())
    }
}
