use nkeys::KeyPair;

use super::*;

struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, seed: String| std::fs::write(folder.path().join(name), seed).unwrap();
        write("callout.nk", KeyPair::new_user().seed().unwrap());
        write("issuer.nk", KeyPair::new_account().seed().unwrap() + "\n");
        write("xkey.nk", XKey::new().seed().unwrap() + "\n");
        Self { folder }
    }

    fn flags(&self) -> Flags {
        let file = |name: &str| Some(self.folder.path().join(name));
        Flags {
            nats_url: Some("tls://nats:4222".into()),
            nats_seed_file: file("callout.nk"),
            issuer_seed_file: file("issuer.nk"),
            xkey_seed_file: file("xkey.nk"),
            ..Flags::default()
        }
    }
}

fn refused(flags: Flags) -> String {
    flags.check().unwrap_err().to_string()
}

#[test]
fn the_least_settings_are_an_address_and_three_keys() {
    let settings = Case::new().flags().check().unwrap();
    assert_eq!(settings.records_namespace, "harmony-fleet-devices");
    assert_eq!(settings.jwt_lifetime, Duration::from_secs(720));
    assert!(!settings.device_requests);
    assert_eq!(settings.token_audience, "nats");
    assert_eq!(settings.components["system:serviceaccount:harmony-fleet:vk-nats"], Component::ClusterSide);
    assert_eq!(settings.components["system:serviceaccount:harmony-fleet:enroller"], Component::Enroller);
    assert_eq!((settings.oidc_device, settings.oidc_person), (None, None));
}

#[test]
fn spare_keys_are_read_where_they_are_and_outside_of_a_rotation_they_are_not() {
    let case = Case::new();
    let file = |name: &str| case.folder.path().join(name);
    let flags = || Flags {
        issuer_spare_seed_files: Some(vec![file("issuer.next.nk"), file("issuer.previous.nk")]),
        xkey_spare_seed_files: Some(vec![file("xkey.next.nk"), file("xkey.previous.nk")]),
        ..case.flags()
    };
    let settings = flags().check().unwrap();
    assert_eq!((settings.spare_issuers.len(), settings.curves.len()), (0, 1));
    std::fs::write(file("issuer.next.nk"), KeyPair::new_account().seed().unwrap()).unwrap();
    std::fs::write(file("xkey.previous.nk"), XKey::new().seed().unwrap()).unwrap();
    let settings = flags().check().unwrap();
    assert_eq!((settings.spare_issuers.len(), settings.curves.len()), (1, 2));
    std::fs::write(file("issuer.next.nk"), "SA").unwrap();
    let text = refused(flags());
    assert!(text.contains("issuer-spare-seed-files"), "{text}");
}

#[test]
fn keys_of_another_kind_are_refused_without_showing_them() {
    let case = Case::new();
    let seed = std::fs::read_to_string(case.folder.path().join("callout.nk")).unwrap();
    for (key, flags) in [
        ("issuer-seed-file", Flags { issuer_seed_file: case.flags().nats_seed_file, ..case.flags() }),
        ("xkey-seed-file", Flags { xkey_seed_file: case.flags().nats_seed_file, ..case.flags() }),
    ] {
        let text = refused(flags);
        assert!(text.contains(key) && !text.contains(&seed), "{text}");
    }
}

#[test]
fn components_are_service_accounts_with_a_part_to_play() {
    let case = Case::new();
    let with = |entry: &str| Flags { components: Some(vec![entry.to_owned()]), ..case.flags() };
    let settings = with("system:serviceaccount:prod:bridge=cluster-side").check().unwrap();
    assert_eq!(settings.components.len(), 1);
    assert_eq!(settings.components["system:serviceaccount:prod:bridge"], Component::ClusterSide);
    for wrong in [
        "prod:bridge=cluster-side",
        "system:serviceaccount:prod:bridge",
        "system:serviceaccount:prod:bridge=device",
        "system:serviceaccount::bridge=enroller",
        "system:serviceaccount:prod:=enroller",
        "system:node:pi-7=cluster-side",
    ] {
        assert!(refused(with(wrong)).contains("components"), "{wrong}");
    }
}

#[test]
fn lifetimes_are_bounded() {
    let case = Case::new();
    for (seconds, good) in [(4, false), (5, true), (3600, true), (3601, false)] {
        let flags = Flags { jwt_lifetime: Some(Seconds(seconds)), ..case.flags() };
        assert_eq!(flags.check().is_ok(), good, "{seconds}");
    }
}

#[test]
fn an_identity_provider_needs_an_audience_and_persons_one_of_their_own() {
    let case = Case::new();
    let device = |issuer: Option<&str>, audience: Option<&str>| Flags {
        oidc_device_issuer: issuer.map(str::to_owned),
        oidc_device_audience: audience.map(str::to_owned),
        ..case.flags()
    };
    assert!(refused(device(Some("https://idp"), None)).contains("oidc-device-audience"));
    assert!(refused(device(Some("https://idp"), Some(" "))).contains("oidc-device-audience"));
    assert!(refused(device(None, Some("nats"))).contains("oidc-device-issuer"));
    let both = |audience: &str| Flags {
        oidc_person_issuer: Some("https://idp".into()),
        oidc_person_audience: Some(audience.into()),
        ..device(Some("https://idp"), Some("nats"))
    };
    assert!(both("fleet-cli").check().is_ok());
    assert!(refused(both("nats")).contains("oidc-person-audience"));
}
