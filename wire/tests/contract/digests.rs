//! What both sides compare.

use std::collections::BTreeMap;

use fleet_wire::{digest::Digest, name::PodUid};
use proptest::prelude::*;

fn set() -> impl Strategy<Value = BTreeMap<PodUid, Digest>> {
    let uid = "[a-f0-9]{1,4}".prop_map(|uid| uid.parse().unwrap());
    let digest = any::<[u8; 4]>().prop_map(|bytes| Digest::of(&bytes));
    prop::collection::btree_map(uid, digest, 0..20)
}

proptest! {
    #[test]
    fn a_set_has_no_order(set in set(), seed in any::<u64>()) {
        let mut entries: Vec<_> = set.iter().collect();
        entries.sort_by_key(|(uid, _)| Digest::of(&[uid.as_str().as_bytes(), &seed.to_be_bytes()].concat()));
        prop_assert_eq!(Digest::of_set(entries), Digest::of_set(&set));
    }

    #[test]
    fn two_sets_have_two_digests(left in set(), right in set()) {
        prop_assert_eq!(Digest::of_set(&left) == Digest::of_set(&right), left == right);
    }

    #[test]
    fn one_changed_member_shows(set in set(), bytes in any::<[u8; 5]>()) {
        prop_assume!(!set.is_empty());
        let mut changed = set.clone();
        changed.first_entry().unwrap().insert(Digest::of(&bytes));
        prop_assert_ne!(Digest::of_set(&changed), Digest::of_set(&set));
        changed.pop_first();
        prop_assert_ne!(Digest::of_set(&changed), Digest::of_set(&set));
    }

    #[test]
    fn text_and_back(bytes in any::<Vec<u8>>()) {
        let digest = Digest::of(&bytes);
        let text = serde_json::to_value(digest).unwrap();
        prop_assert_eq!(text.as_str().unwrap(), digest.to_string());
        prop_assert_eq!(serde_json::from_value::<Digest>(text).unwrap(), digest);
    }

    #[test]
    fn other_text_is_no_digest(text in "\\PC{0,60}") {
        if let Ok(digest) = serde_json::from_value::<Digest>(text.clone().into()) {
            prop_assert_eq!(digest.to_string(), text);
        }
    }
}

/// Both sides must compute the same for years: these values are part of the contract.
#[test]
fn digests_never_change() {
    assert_eq!(Digest::of(b"").to_string(), "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
    assert_eq!(Digest::of_set([]).to_string(), "ZxK52AAi_zBu0uYWFMLzt_a9ZwvzN9iHpB9jWo7De8M");
    let uid: PodUid = "0f8b3c9e-5a55-4a0e-9a57-0a3d2d9a1c11".parse().unwrap();
    assert_eq!(
        Digest::of_set([(&uid, &Digest::of(b"{}"))]).to_string(),
        "DbCfxsenwlHBG_Kp_GLXaLL_LnwoGDY7Ljs5gAj5LMM"
    );
}
