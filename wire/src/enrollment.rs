//! How a device becomes a member of the fleet, and which objects make it one.
//!
//! ```text
//! operator first                                     device first
//! EnrollmentIntent (file: NATS, root key, token)     NATS and root key in the device's settings
//!   │ CONNECT shows only the token's id                │ CONNECT proves the identity key, known to nobody
//!   ▼                                                  ▼
//! fleet.enroll.v1.token.<id>                         fleet.enroll.v1.key.<U…>
//!   └── sealed request: statement, signed by the identity key; MACed with the token's secret, or with a
//!       certificate request that an operator approves ──► enroller ──► Node + record (a Secret)
//!                                                                          │
//!   sealed reply: enrolled, pending, or refused; the fleet's keys  ◄───────┘
//! ```
//!
//! A device that is a member asks for new keys under `fleet.enroll.v1.device.<name>` with the old identity
//! key's signature. An [`EnrollmentIntent`] is never a credential: what the agent runs with is made from the
//! answer.

mod account;
mod door;
mod intent;
mod objects;
mod record;
mod request;
mod token;

pub use self::{
    account::{AccountProof, Carried, DeviceAccount, DeviceIssuer},
    door::{Door, DoorError, enroll_wildcard},
    intent::EnrollmentIntent,
    objects::{
        CURVE_KEY, DEVICE_LABEL, DEVICE_TAINT, Enrollment, FINGERPRINT, IDENTITY_KEY, INCARNATION,
        KEY_VERSION, PROVIDER, REPORT_POD_IP, ROTATE_KEYS, SIGNER_NAME, UNDELETE,
    },
    record::{RECORD_TYPE, RECORDS_NAMESPACE, Record, RecordError, RecordState, record_name},
    request::{
        EnrollReply, EnrollRequest, EnrollStatement, MAX_ENROLL_MESSAGE, Outcome, Proof, SealError,
        open_reply, open_request, seal_reply, seal_request,
    },
    token::{EnrollmentToken, TOKEN_TYPE, TOKENS_NAMESPACE, TokenError, TokenId, TokenRecord, token_name},
};
