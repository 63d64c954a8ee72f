//! Decisions: with what the agent runs, who may ask, and what an answer means. No I/O.

use std::{path::PathBuf, time::Duration};

use fleet_wire::{
    enrollment::Outcome,
    message::{Refusal, RefusalCode},
    name::DeviceName,
};

use super::{EnrollError, membership::Membership};
use crate::settings::Settings;

/// Between two questions while somebody has to approve.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// After an answer that says nothing for good.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// With what the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// It is a member, with the credential in the data folder.
    Member {
        /// Its name.
        device: DeviceName,
        /// The pinned root key.
        root_key: String,
    },
    /// Its settings say everything; whoever enrolled it knows the keys of the data folder.
    Settings {
        /// Its name.
        device: DeviceName,
        /// Where NATS is.
        nats_url: String,
        /// The root key.
        root_key: String,
        /// The statement of the fleet's keys.
        keys_file: PathBuf,
    },
    /// It has to enroll first, with this file.
    Enroll(PathBuf),
    /// It has to ask for membership first.
    Request,
}

/// With what the agent runs. `credential`: whether the data folder holds one; `invited`: whether the file in the
/// setting enrollment-file exists.
///
/// # Errors
/// When there is no way, or settings contradict what the device is.
pub fn profile(
    settings: &Settings,
    membership: &Membership,
    credential: bool,
    invited: bool,
) -> Result<Profile, EnrollError> {
    let file = settings.enrollment_file.clone().filter(|_| invited);
    if let (true, Some(device), Some(root_key)) =
        (credential, membership.device.clone(), membership.root_key.clone())
    {
        if let Some(file) = file.filter(|_| membership.revoked.is_some()) {
            return Ok(Profile::Enroll(file));
        }
        return match &settings.name {
            Some(wanted) if *wanted != device => {
                Err(EnrollError::OtherName { is: device, wanted: wanted.clone() })
            }
            _ => Ok(Profile::Member { device, root_key }),
        };
    }
    if let Some(file) = file {
        return Ok(Profile::Enroll(file));
    }
    if settings.request_enrollment {
        return Ok(Profile::Request);
    }
    let given = (&settings.name, &settings.nats_url, &settings.fleet_root_key, &settings.fleet_keys_file);
    match given {
        (Some(device), Some(nats_url), Some(root_key), Some(keys_file)) => Ok(Profile::Settings {
            device: device.clone(),
            nats_url: nats_url.clone(),
            root_key: root_key.clone(),
            keys_file: keys_file.clone(),
        }),
        // Who sets one of them means to set all.
        (Some(_), ..) | (_, Some(_), ..) | (_, _, Some(_), _) | (.., Some(_)) => {
            Err(EnrollError::Setting { setting: missing(settings) })
        }
        (None, None, None, None) => Err(EnrollError::NotEnrolled),
    }
}

/// The first setting that a device without credential lacks.
pub fn missing(settings: &Settings) -> &'static str {
    let given = [
        ("name", settings.name.is_some()),
        ("nats-url", settings.nats_url.is_some()),
        ("fleet-root-key", settings.fleet_root_key.is_some()),
    ];
    given.into_iter().find(|(_, given)| !given).map_or("fleet-keys-file", |(setting, _)| setting)
}

/// Whether a device that is `membership` may ask to be `device` in the fleet of this root key.
///
/// # Errors
/// When it is another one, and was not revoked.
pub fn may_ask(membership: &Membership, device: &DeviceName, root_key: &str) -> Result<(), EnrollError> {
    if membership.revoked.is_some() {
        return Ok(());
    }
    match (&membership.device, &membership.root_key) {
        (_, Some(is)) if is != root_key => Err(EnrollError::OtherFleet { is: is.clone() }),
        (Some(is), _) if is != device => {
            Err(EnrollError::OtherName { is: is.clone(), wanted: device.clone() })
        }
        _ => Ok(()),
    }
}

/// What to do after an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The device is a member.
    Done,
    /// Ask again later; for people: why.
    Again {
        /// How long to wait.
        after: Duration,
        /// For people.
        waiting_for: String,
        /// Whether it waits for somebody's approval.
        approval: bool,
    },
    /// No use in asking again.
    GiveUp(Refusal),
}

/// What an answer means. `random` is uniform in 0..1: a room full of new devices does not ask in one moment.
pub fn step(outcome: Outcome, random: f64) -> Step {
    let jittered = |pause: Duration| pause.mul_f64(0.75 + random.clamp(0.0, 1.0) / 2.0);
    match outcome {
        Outcome::Enrolled => Step::Done,
        Outcome::Pending(waiting_for) => {
            Step::Again { after: jittered(ASK_EVERY), waiting_for, approval: true }
        }
        Outcome::Refused(refusal) => match refusal.code {
            RefusalCode::Busy | RefusalCode::Unavailable | RefusalCode::Internal => {
                Step::Again { after: jittered(TRY_AGAIN), waiting_for: refusal.message, approval: false }
            }
            _ => Step::GiveUp(refusal),
        },
    }
}

#[cfg(test)]
#[path = "tests/decide.rs"]
mod tests;
