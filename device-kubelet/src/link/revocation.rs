//! Out of the fleet: that it is, is written down. The pods end, and what they were made of is erased with the keys
//! that opened it (`pods::Pods::erase`). The device's own keys stay, so that the revocation can be taken back; they
//! open nothing as long as it holds.

use jiff::Timestamp;

use super::{driver::causes, standing::Standing};
use crate::enroll::membership::Revocation;

/// Notes that the device was revoked. From now on it shows, also after a reboot.
pub fn note(standing: &Standing, reason: &str) {
    let revocation = Revocation { at: Timestamp::now(), reason: reason.to_owned() };
    if let Err(error) = standing.update(|membership| membership.revoked = Some(revocation)) {
        tracing::error!(error = causes(&error), "cannot write down that this device was revoked");
    }
}
