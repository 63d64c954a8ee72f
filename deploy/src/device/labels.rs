//! Labels that an operator gives to a device's Node.

use std::collections::BTreeMap;

use fleet_wire::enrollment::DEVICE_LABEL;

use crate::error::FleetError;

/// Kept by the fleet itself, or by the device's own report.
const RESERVED: &[&str] = &[
    "type",
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "node.kubernetes.io/exclude-from-external-load-balancers",
];

/// Reads `key=value` arguments.
///
/// # Errors
/// [`FleetError::Usage`] for what Kubernetes would not take as a label, and what the fleet keeps itself.
pub fn parse(arguments: &[String]) -> Result<BTreeMap<String, String>, FleetError> {
    let mut labels = BTreeMap::new();
    for argument in arguments {
        let (key, value) = argument.split_once('=').ok_or_else(|| {
            FleetError::usage(format!("{argument:?} is no label"), "write it as key=value, e.g. site=hall-3")
        })?;
        check_key(key)?;
        if !is_value(value) {
            return Err(FleetError::usage(
                format!("{value:?} is no value of a label"),
                "up to 63 letters, digits, '-', '_' and '.', starting and ending with a letter or digit",
            ));
        }
        if labels.insert(key.to_owned(), value.to_owned()).is_some_and(|before| before != value) {
            return Err(FleetError::usage(format!("label {key} is given twice"), "give it once"));
        }
    }
    Ok(labels)
}

/// Reads `key=value` arguments by which devices are chosen: labels of the fleet itself, too.
///
/// # Errors
/// [`FleetError::Usage`] for what is no label.
pub fn selector(arguments: &[String]) -> Result<BTreeMap<String, String>, FleetError> {
    arguments
        .iter()
        .map(|argument| match argument.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(FleetError::usage(
                format!("{argument:?} chooses nothing"),
                "write it as key=value, e.g. site=hall-3",
            )),
        })
        .collect()
}

fn check_key(key: &str) -> Result<(), FleetError> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if name.is_empty() || !is_value(name) || prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
        return Err(FleetError::usage(
            format!("{key:?} is no key of a label"),
            "[prefix/]name: the prefix a DNS name, the name up to 63 letters, digits, '-', '_' and '.'",
        ));
    }
    let ours = DEVICE_LABEL.split('/').next();
    if prefix == ours || RESERVED.contains(&key) {
        return Err(FleetError::usage(
            format!("label {key} is kept by the fleet itself"),
            "choose a key of your own, e.g. site or example.com/site",
        ));
    }
    Ok(())
}

fn is_value(value: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && end(bytes.first())
        && end(bytes.last())
}

fn is_subdomain(value: &str) -> bool {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    value.len() <= 253 && value.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(labels: &[&str]) -> Result<BTreeMap<String, String>, FleetError> {
        parse(&labels.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn labels_are_those_that_kubernetes_takes() {
        let labels = of(&["site=hall-3", "example.com/row=A_1.b", "empty=", "site=hall-3"]).unwrap();
        assert_eq!(labels.len(), 3);
        assert_eq!(labels["empty"], "");
        let long = format!("a={}", "x".repeat(64));
        for wrong in
            ["site", "=x", "a b=c", "a=b c", "a=-b", "a/b/c=d", "Ex_ample/a=b", "/a=b", "a/=b", &long]
        {
            let error = of(&[wrong]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}: {error}");
        }
        assert!(of(&["a=1", "a=2"]).is_err());
    }

    #[test]
    fn what_the_fleet_keeps_is_refused() {
        for ours in
            ["fleet.harmony.io/device=false", "fleet.harmony.io/x=y", "kubernetes.io/arch=arm", "type=x"]
        {
            assert!(of(&[ours]).unwrap_err().to_string().contains("kept by the fleet"), "{ours}");
        }
    }
}
