//! Who may say which curve keys the fleet has.

use std::collections::BTreeMap;

use fleet_wire::{
    keys::{FleetKeys, KeyError, KeyStatement, SignedKeyStatement},
    name::KeyVersion,
};
use nkeys::{KeyPair, XKey};

fn statement() -> KeyStatement {
    let keys = BTreeMap::from([(KeyVersion(1), XKey::new()), (KeyVersion(2), XKey::new())]);
    KeyStatement { sequence: 3, curve_keys: FleetKeys::new(keys).unwrap().public(), enroller_key: None }
}

fn refused(signed: &SignedKeyStatement, root: &KeyPair) -> bool {
    matches!(signed.verify(&root.public_key()), Err(KeyError::Signature { .. }))
}

#[test]
fn a_signed_statement_is_read_back() {
    let root = KeyPair::new_operator();
    let signed = SignedKeyStatement::sign(&statement(), &root).unwrap();
    let statement = signed.verify(&root.public_key()).unwrap();
    assert_eq!(statement.sequence, 3);
    assert_eq!(statement.fleet_keys().unwrap().newest().0, KeyVersion(2));
}

#[test]
fn another_root_is_refused() {
    let signed = SignedKeyStatement::sign(&statement(), &KeyPair::new_operator()).unwrap();
    let other = KeyPair::new_operator();
    assert!(refused(&signed, &other));
    let text = signed.verify(&other.public_key()).unwrap_err().to_string();
    assert!(text.contains(&other.public_key()), "{text}");
}

#[test]
fn every_changed_byte_is_refused() {
    let root = KeyPair::new_operator();
    let signed = SignedKeyStatement::sign(&statement(), &root).unwrap();
    for at in 0..signed.statement.len() {
        let mut forged = signed.clone();
        let byte = signed.statement.as_bytes()[at];
        let other = if byte == b'1' { "2" } else { "1" };
        forged.statement.replace_range(at..=at, other);
        assert!(refused(&forged, &root), "byte {at}");
    }
    for at in 0..signed.signature.len() - 1 {
        let mut forged = signed.clone();
        let other = if signed.signature.as_bytes()[at] == b'A' { "B" } else { "A" };
        forged.signature.replace_range(at..=at, other);
        assert!(refused(&forged, &root), "byte {at} of the signature");
    }
}

#[test]
fn no_signature_cuts_short_or_runs_on() {
    let root = KeyPair::new_operator();
    let signed = SignedKeyStatement::sign(&statement(), &root).unwrap();
    for signature in ["", "A", "====", "ä", &signed.signature[..80], &format!("{0}{0}", signed.signature)] {
        let forged = SignedKeyStatement { signature: signature.to_owned(), ..signed.clone() };
        assert!(refused(&forged, &root), "{signature:?}");
    }
}

#[test]
fn a_signature_for_another_purpose_is_none() {
    let root = KeyPair::new_operator();
    let signed = SignedKeyStatement::sign(&statement(), &root).unwrap();
    use base64::Engine as _;
    let bare = root.sign(signed.statement.as_bytes()).unwrap();
    let forged = SignedKeyStatement {
        signature: base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bare),
        ..signed
    };
    assert!(refused(&forged, &root));
}

#[test]
fn a_root_is_an_operators_key() {
    let user = KeyPair::new_user();
    let signed = SignedKeyStatement::sign(&statement(), &user).unwrap();
    assert!(matches!(signed.verify(&user.public_key()), Err(KeyError::Nkey { .. })));
    for root in ["", "O", "not a key", &XKey::new().public_key()] {
        assert!(matches!(signed.verify(root), Err(KeyError::Nkey { .. })), "{root:?}");
    }
}

#[test]
fn a_statement_needs_keys_that_are_curve_keys() {
    let empty = KeyStatement { sequence: 1, curve_keys: BTreeMap::new(), enroller_key: None };
    assert!(matches!(empty.fleet_keys(), Err(KeyError::Empty)));
    let user = BTreeMap::from([(KeyVersion(1), KeyPair::new_user().public_key())]);
    let wrong = KeyStatement { sequence: 1, curve_keys: user, enroller_key: None };
    assert!(matches!(wrong.fleet_keys(), Err(KeyError::Nkey { .. })));
}

#[test]
fn seeds_are_trimmed_and_never_shown() {
    let key = XKey::new();
    let seed = key.seed().unwrap();
    let keys = FleetKeys::from_seeds([(KeyVersion(1), format!("{seed}\n"))]).unwrap();
    assert_eq!(keys.public()[&KeyVersion(1)], key.public_key());
    assert!(!format!("{keys:?}").contains(&seed));
    let broken = format!("{}A", &seed[..seed.len() - 2]);
    let error = FleetKeys::from_seeds([(KeyVersion(1), broken.clone())]).unwrap_err().to_string();
    assert!(!error.contains(&broken), "{error}");
}
