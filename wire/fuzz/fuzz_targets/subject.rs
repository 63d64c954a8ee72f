//! Subjects: what is read is written as it was.
#![no_main]

use fleet_wire::{
    name::DeviceName,
    subject::{Subject, inbox_prefix, is_own_inbox},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(subject) = Subject::parse(text) {
        assert_eq!(subject.to_string(), text);
    }
    if let Ok(device) = "pi-7".parse::<DeviceName>()
        && is_own_inbox(&device, text)
    {
        assert!(text.starts_with(&format!("{}.", inbox_prefix(&device))));
        assert!(!text.contains(['*', '>', ' ', '\r', '\n']));
    }
});
