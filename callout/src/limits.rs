//! How often somebody may try.
//!
//! Attempts that prove nothing count by the address that they come from, never by the name that they claim:
//! otherwise anybody could lock a device out. Attempts that prove an identity do not count there, so that
//! thousands of devices behind one address come back at once; they have a budget for each identity, so that
//! one device that reconnects without end does not take the time of all.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Duration,
};

use fleet_wire::permissions::Identity;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Unverified attempts of one address: at once, and one more for each of these times.
const ADDRESS_BURST: NonZeroU32 = NonZeroU32::new(120).unwrap();
const ADDRESS_EVERY: Duration = Duration::from_millis(200);
/// Admissions of one identity.
const IDENTITY_BURST: NonZeroU32 = NonZeroU32::new(30).unwrap();
const IDENTITY_EVERY: Duration = Duration::from_secs(2);

/// Where an attempt comes from, as far as it counts. Of IPv6 that is the /64: a customer has at least one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// An IPv4 address, or the first half of an IPv6 one.
    Address(IpAddr),
    /// The server gave none that can be read; all of these count together.
    Unknown,
}

impl Source {
    /// From the server's `client_info.host`.
    pub fn parse(host: &str) -> Self {
        match host.parse() {
            Ok(IpAddr::V4(address)) => Self::Address(address.into()),
            Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
                Some(address) => Self::Address(address.into()),
                None => {
                    let network = u128::from(address) & !u128::from(u64::MAX);
                    Self::Address(Ipv6Addr::from(network).into())
                }
            },
            Err(_) => Self::Unknown,
        }
    }
}

/// All budgets.
#[derive(Debug)]
pub struct Limits {
    addresses: DefaultKeyedRateLimiter<Source>,
    identities: DefaultKeyedRateLimiter<Identity>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            addresses: RateLimiter::keyed(quota(ADDRESS_EVERY, ADDRESS_BURST)),
            identities: RateLimiter::keyed(quota(IDENTITY_EVERY, IDENTITY_BURST)),
        }
    }
}

fn quota(every: Duration, burst: NonZeroU32) -> Quota {
    // Only a period of zero makes no quota.
    Quota::with_period(every).unwrap_or(Quota::per_second(burst)).allow_burst(burst)
}

impl Limits {
    /// Counts an attempt that proves nothing; whether it is within the address's budget.
    pub fn unverified(&self, source: &Source) -> bool {
        self.addresses.check_key(source).is_ok()
    }

    /// Counts an admission; whether it is within the identity's budget.
    pub fn admission(&self, identity: &Identity) -> bool {
        self.identities.check_key(identity).is_ok()
    }

    /// Forgets who has its whole budget again. To be called now and then.
    pub fn forget(&self) {
        self.addresses.retain_recent();
        self.identities.retain_recent();
        self.addresses.shrink_to_fit();
        self.identities.shrink_to_fit();
    }
}

#[cfg(test)]
#[path = "tests/limits.rs"]
mod tests;
