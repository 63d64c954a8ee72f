//! Names of images as a kubelet reads them.

/// The full name for a short one: `busybox` is `docker.io/library/busybox`, as on any kubelet. Podman would ask its own
/// configuration what to pull, which has no answer on a fresh device; and of what is on the device it would take an
/// image of any registry whose path ends so. An id stays as it is.
pub(super) fn normalized(image: &str) -> String {
    if image.starts_with("sha256:") {
        return image.to_owned();
    }
    let (first, rest) = match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => return image.to_owned(),
        Some((first, rest)) => (first, Some(rest)),
        None => (image, None),
    };
    match rest {
        Some(rest) => format!("docker.io/{first}/{rest}"),
        None => format!("docker.io/library/{first}"),
    }
}

/// Whether this can stand in the path of a request: what a reference may hold, and no way out of the path.
pub(super) fn is_plausible(image: &str) -> bool {
    !image.is_empty()
        && image.len() <= 1024
        && !image.split('/').any(|part| part.is_empty() || part == "." || part == "..")
        && image.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/:@".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_docker_hub() {
        for (short, full) in [
            ("busybox", "docker.io/library/busybox"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("grafana/grafana:11", "docker.io/grafana/grafana:11"),
            ("localhost/hello:v1", "localhost/hello:v1"),
            ("localhost:5000/hello", "localhost:5000/hello"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
            ("busybox@sha256:ab", "docker.io/library/busybox@sha256:ab"),
            ("sha256:ab", "sha256:ab"),
        ] {
            assert_eq!(normalized(short), full);
        }
    }

    #[test]
    fn what_leaves_the_path_is_no_reference() {
        for good in ["busybox", "localhost/hello:v1", "sha256:abc", "a/b@sha256:c"] {
            assert!(is_plausible(good), "{good}");
        }
        for bad in ["", "../x", "a/../b", "a//b", "a?b", "a b", "a#b", "a%2f"] {
            assert!(!is_plausible(bad), "{bad}");
        }
    }
}
