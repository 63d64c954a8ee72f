//! Whatever stands in the environment or a file: an answer or an error, never the end of the program, and no value in
//! an error.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use harmony_config::{ConfigManager, Environment, File, Source};
use proptest::prelude::*;

use super::{Vlan, model};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_variables_are_read_or_refused(
        variables in proptest::collection::vec(
            ("(HARMONY_CONFIG_Vlan)?(__)?[A-Za-z_]{0,10}(__[a-zA-Z_]{0,8})?", proptest::collection::vec(any::<u8>(), 0..40)),
            0..6,
        ),
    ) {
        let variables = variables.into_iter().map(|(name, value)| (OsString::from(name), OsString::from_vec(value)));
        let source = Environment::new().with_variables(variables);
        if let Err(error) = futures::executor::block_on(source.read(&model())) {
            prop_assert!(error.to_string().contains("variable HARMONY_CONFIG_Vlan"), "{}", error);
        }
    }

    #[test]
    fn any_text_in_a_field_stays_out_of_errors(field in "(ID|MTU|SWITCH)", text in "canary[ -~]{0,40}") {
        let source = Environment::new().with_variables([(format!("HARMONY_CONFIG_Vlan__{field}"), text)]);
        let manager = ConfigManager::builder().source(source).build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let error = runtime.block_on(manager.get::<Vlan>()).unwrap_err();
        prop_assert!(!format!("{error} {error:?}").contains("canary"), "{}", error);
    }

    #[test]
    fn any_bytes_in_a_file_are_read_or_refused(
        ending in "(toml|yaml|yml|json)",
        text in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "[ -~\n]{0,200}".prop_map(String::into_bytes),
        ],
    ) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(format!("Vlan.{ending}")), text).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        if let Err(error) = runtime.block_on(File::folder(folder.path()).read(&model())) {
            prop_assert!(error.to_string().contains("Vlan."), "{}", error);
        }
    }
}
