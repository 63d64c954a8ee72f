//! What the fleet's keys are to be: from what there is and what is wished, without any I/O.

use fleet_wire::{
    keys::{KeyStatement, SignedKeyStatement},
    name::{DeviceName, KeyVersion},
};

use super::material::{RootKey, Versions};
use crate::{error::FleetError, info::FleetInfo};

/// What was found in the cluster.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// `fleet-curve-keys`.
    pub curve: Versions,
    /// `fleet-enroller-keys`.
    pub enroller: Versions,
    /// The highest sequence of a statement that the Secret remembers, should `fleet-info` be lost.
    pub sequence: u64,
    /// `fleet-info`.
    pub info: Option<FleetInfo>,
}

/// What is to be in the cluster.
#[derive(Debug, Clone)]
pub struct Desired {
    /// `fleet-curve-keys`.
    pub curve: Versions,
    /// `fleet-enroller-keys`.
    pub enroller: Versions,
    /// `fleet-info`.
    pub info: FleetInfo,
    /// Sequence of its statement.
    pub sequence: u64,
}

/// What `fleet-info` is to say beside keys; `None` leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Where devices reach NATS.
    pub nats_url: Option<String>,
    /// CA of its certificate (PEM).
    pub nats_ca: Option<String>,
}

/// Which key is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// That seals the messages of devices.
    Curve,
    /// That opens requests to enroll.
    Enroller,
}

/// A Node, and the version of the fleet's curve key that it used last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The device.
    pub device: DeviceName,
    /// `None`: it has not said any.
    pub version: Option<KeyVersion>,
}

impl Stored {
    /// The root key that this fleet has, if it has one.
    pub fn root(&self) -> Option<&str> {
        self.info.as_ref().map(|info| info.root_key.as_str())
    }

    fn statement(&self) -> Result<Option<KeyStatement>, FleetError> {
        Ok(self.info.as_ref().map(FleetInfo::statement).transpose()?)
    }

    fn last_sequence(&self) -> Result<u64, FleetError> {
        let stated = self.statement()?.map_or(0, |statement| statement.sequence);
        Ok(stated.max(self.sequence))
    }

    fn highest_version(&self) -> Result<Option<KeyVersion>, FleetError> {
        Ok(self.statement()?.and_then(|statement| statement.curve_keys.into_keys().next_back()))
    }

    /// The fleet with at least one version of each key, and a statement that names exactly those. `root` is
    /// asked for only when something has to be signed.
    ///
    /// # Errors
    /// When there is no root key, or another fleet's.
    pub fn complete(
        &self,
        reach: Reach,
        root: impl FnOnce() -> Result<RootKey, FleetError>,
    ) -> Result<Desired, FleetError> {
        let (mut curve, mut enroller) = (self.curve.clone(), self.enroller.clone());
        if curve.is_empty() {
            curve.add(self.highest_version()?)?;
        }
        if enroller.is_empty() {
            enroller.add(None)?;
        }
        self.stated(curve, enroller, reach, root)
    }

    /// The same with a next version of one key.
    ///
    /// # Errors
    /// When the fleet has no keys yet, or the root key is another fleet's.
    pub fn rotated(&self, kind: Kind, root: RootKey) -> Result<Desired, FleetError> {
        let highest = self.highest_version()?;
        if self.info.is_none() || self.curve.is_empty() || self.enroller.is_empty() {
            return Err(FleetError::not_found(
                "this fleet has no complete set of keys that could be rotated",
                "make it with `fleet keys init`",
            ));
        }
        let (mut curve, mut enroller) = (self.curve.clone(), self.enroller.clone());
        match kind {
            Kind::Curve => curve.add(highest)?,
            Kind::Enroller => enroller.add(None)?,
        };
        self.stated(curve, enroller, Reach::default(), || Ok(root))
    }

    /// The same without an old version of the curve key.
    ///
    /// # Errors
    /// When it is the newest, when it does not exist, when devices may still need it (unless `force`), or
    /// when the root key is another fleet's.
    pub fn without(
        &self,
        version: KeyVersion,
        in_use: &[InUse],
        force: bool,
        root: RootKey,
    ) -> Result<Desired, FleetError> {
        let mut curve = self.curve.clone();
        if curve.newest() == Some(version) {
            return Err(FleetError::refused(
                format!("version {version} is the newest: without it nobody could speak to devices"),
                "make a newer one first with `fleet keys rotate`",
            ));
        }
        if !curve.remove(version) {
            return Err(FleetError::not_found(
                format!("there is no version {version} of the curve key"),
                "see `fleet keys show`",
            ));
        }
        let behind = behind(version, in_use);
        if !force && !behind.is_empty() {
            let shown: Vec<String> = behind.iter().take(5).map(|device| said(device)).collect();
            let more =
                if behind.len() > 5 { format!(" and {} more", behind.len() - 5) } else { String::new() };
            return Err(FleetError::refused(
                format!("version {version} may still be needed: {}{more}", shown.join(", ")),
                "wait until they connected (they learn the newest version then), or drop it with --force: they \
                 then have to be enrolled again",
            ));
        }
        self.stated(curve, self.enroller.clone(), Reach::default(), || Ok(root))
    }

    fn stated(
        &self,
        curve: Versions,
        enroller: Versions,
        reach: Reach,
        root: impl FnOnce() -> Result<RootKey, FleetError>,
    ) -> Result<Desired, FleetError> {
        let (curve_keys, enroller_key) = (curve.public()?, Some(enroller.newest_public()?));
        let (url, ca) =
            self.info.as_ref().map(|info| (info.nats_url.clone(), info.nats_ca.clone())).unwrap_or_default();
        let (nats_url, nats_ca) = (reach.nats_url.or(url), reach.nats_ca.or(ca));
        let current = self.statement()?;
        if let (Some(info), Some(current)) = (&self.info, &current)
            && current.curve_keys == curve_keys
            && current.enroller_key == enroller_key
        {
            let info = FleetInfo { nats_url, nats_ca, ..info.clone() };
            return Ok(Desired { curve, enroller, info, sequence: current.sequence });
        }
        let root = root()?;
        if let Some(pinned) = self.root().filter(|pinned| *pinned != root.public()) {
            return Err(FleetError::refused(
                format!("the root key {} is not this fleet's: devices have pinned {pinned}", root.public()),
                "name the file with this fleet's own root key",
            ));
        }
        let sequence = self.last_sequence()? + 1;
        let statement = KeyStatement { sequence, curve_keys, enroller_key };
        let keys = SignedKeyStatement::sign(&statement, root.pair())?;
        let device_issuer = self.info.as_ref().and_then(|info| info.device_issuer.clone());
        let info = FleetInfo { nats_url, nats_ca, root_key: root.public(), keys, device_issuer };
        Ok(Desired { curve, enroller, info, sequence })
    }
}

/// Who is not known to have gone beyond a version.
fn behind(version: KeyVersion, in_use: &[InUse]) -> Vec<&InUse> {
    in_use.iter().filter(|device| device.version.is_none_or(|used| used <= version)).collect()
}

fn said(device: &InUse) -> String {
    match device.version {
        Some(version) => format!("{} used version {version} last", device.device),
        None => format!("{} has not said which it uses", device.device),
    }
}

#[cfg(test)]
mod tests {
    use fleet_wire::enrollment::DeviceIssuer;

    use super::*;

    fn made(root: &RootKey) -> Stored {
        stored(Stored::default().complete(Reach::default(), || again(root)).unwrap())
    }

    fn stored(desired: Desired) -> Stored {
        let Desired { curve, enroller, info, sequence } = desired;
        Stored { curve, enroller, sequence, info: Some(info) }
    }

    fn again(root: &RootKey) -> Result<RootKey, FleetError> {
        Ok(RootKey::from_seed(&root.seed()?)?)
    }

    fn never() -> Result<RootKey, FleetError> {
        panic!("the root key is not needed for that")
    }

    fn uses(device: &str, version: Option<u32>) -> InUse {
        InUse { device: device.parse().unwrap(), version: version.map(KeyVersion) }
    }

    #[test]
    fn a_new_fleet_has_one_version_of_each_key_and_says_so() {
        let fleet = made(&RootKey::generate());
        let statement = fleet.statement().unwrap().unwrap();
        assert_eq!(statement.sequence, 1);
        assert_eq!(statement.curve_keys, fleet.curve.public().unwrap());
        assert_eq!(statement.enroller_key, Some(fleet.enroller.newest_public().unwrap()));
        assert_eq!(fleet.curve.all().collect::<Vec<_>>(), [KeyVersion(1)]);
    }

    #[test]
    fn what_is_complete_stays_as_it_is_without_the_root_key() {
        let fleet = made(&RootKey::generate());
        let again = fleet.complete(Reach::default(), never).unwrap();
        assert_eq!(Some(again.info), fleet.info);
        assert_eq!(again.curve, fleet.curve);
        let reach = Reach { nats_url: Some("tls://nats:4222".into()), nats_ca: None };
        let moved = fleet.complete(reach, never).unwrap();
        assert_eq!(moved.info.nats_url.as_deref(), Some("tls://nats:4222"));
        assert_eq!(moved.info.keys, fleet.info.unwrap().keys);
    }

    #[test]
    fn a_rotation_adds_a_version_and_counts_up() {
        let root = RootKey::generate();
        let mut fleet = made(&root);
        let issuer = DeviceIssuer {
            issuer: "https://id.example".into(),
            scopes: vec!["openid".into(), "roles".into()],
            audience: None,
            ca: Some("PEM".into()),
        };
        if let Some(info) = &mut fleet.info {
            info.device_issuer = Some(issuer.clone());
        }
        let rotated = stored(fleet.rotated(Kind::Curve, again(&root).unwrap()).unwrap());
        let map = rotated.info.as_ref().unwrap().config_map("harmony-fleet").unwrap();
        assert_eq!(
            FleetInfo::parse(&map).unwrap().device_issuer,
            Some(issuer),
            "what an operator wrote stays"
        );
        let statement = rotated.statement().unwrap().unwrap();
        assert_eq!(statement.sequence, 2);
        assert_eq!(statement.curve_keys.keys().copied().collect::<Vec<_>>(), [KeyVersion(1), KeyVersion(2)]);
        assert_eq!(rotated.enroller, fleet.enroller);

        let enroller = stored(rotated.rotated(Kind::Enroller, again(&root).unwrap()).unwrap());
        assert_eq!(enroller.curve, rotated.curve);
        assert_eq!(enroller.statement().unwrap().unwrap().sequence, 3);
        assert_ne!(
            enroller.statement().unwrap().unwrap().enroller_key,
            rotated.statement().unwrap().unwrap().enroller_key
        );
    }

    #[test]
    fn another_fleets_root_key_signs_nothing() {
        let fleet = made(&RootKey::generate());
        let error = fleet.rotated(Kind::Curve, RootKey::generate()).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        assert!(error.to_string().contains("devices have pinned"), "{error}");
    }

    #[test]
    fn a_rotation_that_was_interrupted_is_finished_by_completing() {
        let root = RootKey::generate();
        let fleet = made(&root);
        let rotated = fleet.rotated(Kind::Curve, again(&root).unwrap()).unwrap();
        // The Secret was written, the ConfigMap was not.
        let half = Stored { curve: rotated.curve.clone(), sequence: rotated.sequence, ..fleet };
        let whole = half.complete(Reach::default(), || again(&root)).unwrap();
        let statement = whole.info.statement().unwrap();
        assert_eq!(statement.curve_keys, rotated.curve.public().unwrap());
        assert_eq!(statement.sequence, 3, "a number is never used for two statements");
    }

    #[test]
    fn a_lost_fleet_info_does_not_start_to_count_anew() {
        let root = RootKey::generate();
        let fleet = stored(made(&root).rotated(Kind::Curve, again(&root).unwrap()).unwrap());
        let lost = Stored { info: None, ..fleet };
        assert_eq!(lost.complete(Reach::default(), || again(&root)).unwrap().sequence, 3);
    }

    #[test]
    fn a_version_is_dropped_only_when_all_have_gone_beyond_it() {
        let root = RootKey::generate();
        let fleet = stored(made(&root).rotated(Kind::Curve, again(&root).unwrap()).unwrap());
        let drop = |version, in_use: &[InUse], force| {
            fleet.without(KeyVersion(version), in_use, force, again(&root).unwrap())
        };
        for (in_use, word) in
            [(uses("pi-1", Some(1)), "pi-1 used version 1"), (uses("pi-2", None), "pi-2 has not said")]
        {
            let error = drop(1, &[in_use], false).unwrap_err();
            assert!(error.exit_code() == 4 && error.to_string().contains(word), "{error}");
        }
        for dropped in [drop(1, &[uses("pi-1", Some(2))], false), drop(1, &[uses("pi-1", Some(1))], true)] {
            let statement = dropped.unwrap().info.statement().unwrap();
            assert_eq!(statement.curve_keys.keys().copied().collect::<Vec<_>>(), [KeyVersion(2)]);
        }
        assert_eq!(drop(2, &[], true).unwrap_err().exit_code(), 4, "the newest");
        assert_eq!(drop(7, &[], true).unwrap_err().exit_code(), 3);
    }

    #[test]
    fn a_dropped_number_is_not_used_again() {
        let root = RootKey::generate();
        let mut fleet = stored(made(&root).rotated(Kind::Curve, again(&root).unwrap()).unwrap());
        fleet.curve = Versions::default();
        let remade = fleet.complete(Reach::default(), || again(&root)).unwrap();
        assert_eq!(remade.curve.newest(), Some(KeyVersion(3)));
    }

    #[test]
    fn keys_never_show_in_debug() {
        let root = RootKey::generate();
        let fleet = made(&root);
        let shown = format!("{root:?} {fleet:?}");
        let seed = root.seed().unwrap();
        assert!(!shown.contains(&seed[..]), "{shown}");
        for value in fleet.curve.data().into_values().chain(fleet.enroller.data().into_values()) {
            let seed = String::from_utf8(value.0).unwrap();
            assert!(!shown.contains(&seed), "{shown}");
        }
    }
}
