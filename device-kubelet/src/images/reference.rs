//! Names of images: `[registry[:port]/]path[:tag][@digest]`. Pure.

use std::fmt;

/// A name that can be pulled, with a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    registry: String,
    path: String,
    full: String,
    latest: bool,
}

/// The name has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name \"{0}\": invalid reference format")]
pub struct InvalidImageName(pub String);

impl ImageName {
    /// Reads a name as it stands in a pod; the tag `latest` is added where there is none.
    pub fn parse(text: &str) -> Result<Self, InvalidImageName> {
        let invalid = || InvalidImageName(text.to_owned());
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(invalid());
        }
        let last_slash = name.rfind('/').map_or(0, |at| at + 1);
        let (repository, tag) = match name[last_slash..].rfind(':') {
            Some(at) => (&name[..last_slash + at], Some(&name[last_slash + at + 1..])),
            None => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) || repository.is_empty() || repository.len() > 255 {
            return Err(invalid());
        }
        let (registry, path) = match repository.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => ("docker.io", repository),
        };
        if !path.split('/').all(is_path_component) || !is_registry(registry) {
            return Err(invalid());
        }
        let full = if tag.is_none() && digest.is_none() { format!("{text}:latest") } else { text.to_owned() };
        let latest = digest.is_none() && matches!(tag, None | Some("latest"));
        let path = match (registry, path.contains('/')) {
            ("docker.io", false) => format!("library/{path}"),
            _ => path.to_owned(),
        };
        Ok(Self { registry: registry.to_owned(), path, full, latest })
    }

    /// Whether it means whatever is newest.
    pub fn is_latest(&self) -> bool {
        self.latest
    }

    /// Host (and port) of the registry; `docker.io` when none is named.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path in the registry.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && !text.starts_with(['.', '-'])
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-[]:".contains(&b))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || b"._-".contains(b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_as_a_kubelet_reads_them() {
        for (text, full, registry, latest) in [
            ("nginx", "nginx:latest", "docker.io", true),
            ("nginx:1.27", "nginx:1.27", "docker.io", false),
            ("localhost/a:latest", "localhost/a:latest", "localhost", true),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest", "localhost:5000", true),
            ("ghcr.io/a/b:x", "ghcr.io/a/b:x", "ghcr.io", false),
        ] {
            let name = ImageName::parse(text).unwrap();
            assert_eq!(
                (name.to_string().as_str(), name.registry(), name.is_latest()),
                (full, registry, latest)
            );
        }
        let digest = format!("a@sha256:{}", "0".repeat(64));
        assert!(!ImageName::parse(&digest).unwrap().is_latest());
        for bad in ["", "Nginx", "a b", "a::b", "a@x", "-a", "a/", "/a", "a//b", "a:", "http://x/y"] {
            assert!(ImageName::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = ImageName::parse(&text);
        }
    }
}
