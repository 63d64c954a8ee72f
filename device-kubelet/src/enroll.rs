//! How this device becomes a member of the fleet, and what it knows of being one.
//!
//! ```text
//! intent (file)  ─┐                      ┌─► pending: somebody has to approve ─► asks again
//! own settings   ─┴─► keys ─► request ───┼─► refused: says why, ends
//!                                        └─► enrolled: credential.toml, membership.json
//! ```
//!
//! | module | what it decides or does |
//! |---|---|
//! | [`membership`] | what is written down of it; whether it was revoked |
//! | [`decide`] | with what the agent runs; what an answer means (pure) |
//! | [`account`] | the account at an identity provider that an intent brings |
//! | [`request`] | the signed request, and the certificate request in it |
//! | [`talk`] | asks, over a NATS connection that may do nothing else |
//!
//! The wish is never more than the reason to ask: the agent runs with the credential that comes out of it.
//! Everything can be done again, after a crash at any point, with the same result: keys are on disk before
//! they are shown, and the same keys get the same answer.

pub mod account;
pub mod decide;
pub mod membership;
pub mod request;
pub mod talk;

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use fleet_daemon::{
    credential::{CaSource, CredentialError, DeviceCredential, NkeySeed, TokenSource},
    nats::NatsError,
};
use fleet_wire::{
    enrollment::{DeviceAccount, Door, EnrollmentIntent, EnrollmentToken, SealError},
    keys::SignedKeyStatement,
    message::Refusal,
    name::DeviceName,
};

use self::membership::{Membership, MembershipError};
use crate::keys::{self, DeviceKeys, KeysError, Trust};

/// The credential's file in the data folder.
pub const CREDENTIAL: &str = "credential.toml";

/// Why this device is no member (yet).
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// There is nothing to run with.
    #[error(
        "this device is not enrolled: run `device-kubelet enroll --intent FILE` with the file that `fleet device \
         enroll` writes, or set enrollment-file; or set request-enrollment (with name, nats-url, fleet-root-key and \
         fleet-keys-file) and let somebody approve the device"
    )]
    NotEnrolled,
    /// Settings for a request are missing.
    #[error("to ask for membership, `{setting}` has to be set")]
    Setting {
        /// Which one.
        setting: &'static str,
    },
    /// It is another device already.
    #[error(
        "this device is enrolled as {is}, not as {wanted}: use another data-dir, or have {is} revoked first \
         (`kubectl delete node {is}`)"
    )]
    OtherName {
        /// Its name.
        is: DeviceName,
        /// The name that was asked for.
        wanted: DeviceName,
    },
    /// It belongs to another fleet already.
    #[error(
        "this device is enrolled in another fleet (root key {is}): have it revoked there first, or use another \
         data-dir"
    )]
    OtherFleet {
        /// Root key of its fleet.
        is: String,
    },
    /// The intent cannot be read.
    #[error("the enrollment file {file} cannot be read")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The intent is none.
    #[error("{file} is not what `fleet device enroll` writes: {problem}")]
    Intent {
        /// The file.
        file: String,
        /// What is wrong; never the token.
        problem: String,
    },
    /// The fleet takes no requests.
    #[error(
        "the fleet's statement of keys names no key of an enroller: this fleet cannot enroll devices by itself. \
         Update the statement (`fleet-keys-file`, or a new enrollment file)"
    )]
    NoEnroller,
    /// NATS does not let the asker in.
    #[error("{0}")]
    Login(String),
    /// The enroller said no.
    #[error("the fleet refuses to enroll this device: {0}")]
    Refused(Refusal),
    /// Keys could not be read, made or written.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// What is known of the membership could not be read or written.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The credential could not be read or written.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The request could not be made.
    #[error("the request to enroll cannot be made")]
    Request(#[source] SealError),
    /// The certificate request could not be made.
    #[error("the certificate request cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The folder for the account's files cannot be made.
    #[error("the folder {folder} for the account at the identity provider cannot be made", folder = folder.display())]
    AccountFolder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The account cannot be used.
    #[error("the account at the identity provider that the enrollment file brings cannot be used: {0}")]
    Account(String),
    /// The connection cannot be set up.
    #[error(transparent)]
    Nats(#[from] NatsError),
}

/// What the device goes by when it asks.
#[derive(Debug, Clone)]
pub enum Invitation {
    /// An operator enrolled it first, and gave it a token.
    Token(EnrollmentToken),
    /// It asks first; somebody approves it.
    Request,
}

/// A wish to become a member, checked.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The name that the device is to have.
    pub device: DeviceName,
    /// Where NATS is.
    pub nats_url: String,
    /// CA of its certificate.
    pub nats_ca: Option<CaSource>,
    /// The root key that is pinned from now on.
    pub root_key: String,
    /// Statement of the fleet's keys; `None`: the one that was accepted before.
    pub keys: Option<SignedKeyStatement>,
    /// What it goes by.
    pub invitation: Invitation,
    /// Its account at an identity provider, if it was given one.
    pub account: Option<DeviceAccount>,
}

impl From<EnrollmentIntent> for Wish {
    fn from(intent: EnrollmentIntent) -> Self {
        let EnrollmentIntent { device, nats_url, nats_ca, root_key, keys, token, account } = intent;
        Self {
            device,
            nats_url,
            nats_ca: nats_ca.map(CaSource::Pem),
            root_key,
            keys: Some(keys),
            invitation: Invitation::Token(token),
            account,
        }
    }
}

/// Reads an intent; `-` is stdin.
pub fn read_intent(file: &Path) -> Result<EnrollmentIntent, EnrollError> {
    let name = if file == Path::new("-") { "stdin".to_owned() } else { file.display().to_string() };
    let read = if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text =
        zeroize::Zeroizing::new(read.map_err(|source| EnrollError::Read { file: name.clone(), source })?);
    // serde_json quotes no content, only names of fields, and positions.
    serde_json::from_str(&text)
        .map_err(|error| EnrollError::Intent { file: name, problem: error.to_string() })
}

/// A wish with everything that it takes to ask, and to finish.
#[derive(Debug)]
pub struct Enrollment {
    data_dir: PathBuf,
    wish: Wish,
    trust: Trust,
    keys: DeviceKeys,
    membership: Membership,
    token: Option<TokenSource>,
}

impl Enrollment {
    /// Checks the wish against what this device is already, and makes the keys that it takes.
    ///
    /// A device that was revoked asks with new keys: the old ones are dead for ever.
    ///
    /// # Errors
    /// [`EnrollError`]; nothing was asked.
    pub fn prepare(data_dir: &Path, wish: Wish) -> Result<Self, EnrollError> {
        let membership = Membership::load(data_dir)?;
        decide::may_ask(&membership, &wish.device, &wish.root_key)?;
        let mut trust = Trust::load(data_dir, &wish.root_key)?;
        if let Some(keys) = &wish.keys {
            match trust.offer(keys) {
                // The wish is older than what this device knows: that stays.
                Err(KeysError::StatementRollback { .. }) | Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if trust.enroller().is_none() {
            return Err(EnrollError::NoEnroller);
        }
        let keys = if membership.revoked.is_some() {
            DeviceKeys::make_next(data_dir)?
        } else {
            DeviceKeys::load_or_create(data_dir)?
        };
        // Before the invitation is used up: an account that cannot work is better known now.
        let token = wish.account.as_ref().map(|account| account::install(data_dir, account)).transpose()?;
        Ok(Self { data_dir: data_dir.to_owned(), wish, trust, keys, membership, token })
    }

    /// What a person compares before approving.
    pub fn fingerprint(&self) -> String {
        self.keys.public().fingerprint
    }

    fn door(&self) -> Door {
        match &self.wish.invitation {
            Invitation::Token(token) => Door::Token(token.id.clone()),
            Invitation::Request => Door::Key(self.keys.identity().clone()),
        }
    }

    /// The fleet took the device: writes down that it did.
    ///
    /// In this order each crash in between leaves a device that comes up as a member: the credential names the
    /// file of the key, and next keys that were not promoted yet are tried when the old ones are refused.
    fn finish(mut self) -> Result<(), EnrollError> {
        DeviceKeys::load_or_create(&self.data_dir)?;
        let file = self.data_dir.join(CREDENTIAL);
        let token = match self.token {
            Some(token) => Some(token),
            // Where a token comes from, an operator wrote there: that is not ours to change.
            None if file.exists() => DeviceCredential::load(&file)?.token,
            None => None,
        };
        DeviceCredential {
            nats_url: self.wish.nats_url,
            nats_ca: self.wish.nats_ca,
            key: NkeySeed::from_file(&keys::identity_file(&self.data_dir))?,
            token,
        }
        .store(&file)?;
        let was_revoked = self.membership.revoked.take().is_some();
        self.membership.device = Some(self.wish.device);
        self.membership.root_key = Some(self.trust.root().to_owned());
        self.membership.store(&self.data_dir)?;
        if was_revoked {
            DeviceKeys::promote_next(&self.data_dir)?;
        }
        Ok(())
    }
}
