//! What a request means to the authorizer: a verb on a subresource of the Node.
//!
//! The table is a kubelet's own (`pkg/kubelet/server/auth.go`), with `KubeletFineGrainedAuthz`: a path with
//! a subresource of its own asks for that first; where `proxy` opened it before the subresource existed,
//! `proxy` still does. Pure.

use http::Method;

/// A path, and the subresources of which any one opens it and all below it.
const GUARDS: &[(&str, &[&str])] = &[
    ("/stats", &["stats"]),
    ("/metrics", &["metrics"]),
    ("/logs", &["log"]),
    ("/spec", &["spec"]),
    ("/checkpoint", &["checkpoint"]),
    ("/pods", &["pods", "proxy"]),
    ("/runningpods", &["pods", "proxy"]),
    ("/healthz", &["healthz", "proxy"]),
    ("/configz", &["configz", "proxy"]),
];

/// The verb of a method; `None` for methods that mean nothing to a kubelet.
pub fn verb(method: &Method) -> Option<&'static str> {
    match *method {
        Method::GET | Method::HEAD => Some("get"),
        Method::POST => Some("create"),
        Method::PUT => Some("update"),
        Method::PATCH => Some("patch"),
        Method::DELETE => Some("delete"),
        _ => None,
    }
}

/// The subresources of `nodes` of which any one opens `path`, in the order in which they are asked for.
pub fn subresources(path: &str) -> &'static [&'static str] {
    GUARDS.iter().find(|(root, _)| is_below(path, root)).map_or(&["proxy"], |(_, subresources)| subresources)
}

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_the_subresource_that_a_kubelet_asks_for() {
        let table: &[(&str, &[&str])] = &[
            ("/stats", &["stats"]),
            ("/stats/summary", &["stats"]),
            ("/metrics", &["metrics"]),
            ("/metrics/resource", &["metrics"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/logs", &["log"]),
            ("/logs/", &["log"]),
            ("/logs/kubelet.log", &["log"]),
            ("/spec", &["spec"]),
            ("/checkpoint/ns/pod/c", &["checkpoint"]),
            ("/pods", &["pods", "proxy"]),
            ("/runningpods", &["pods", "proxy"]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/healthz", &["healthz", "proxy"]),
            ("/healthz/ping", &["healthz", "proxy"]),
            ("/configz", &["configz", "proxy"]),
            ("/containerLogs/ns/pod/c", &["proxy"]),
            ("/exec/ns/pod/c", &["proxy"]),
            ("/attach/ns/pod/c", &["proxy"]),
            ("/portForward/ns/pod", &["proxy"]),
            ("/run/ns/pod/c", &["proxy"]),
            ("/debug/pprof/profile", &["proxy"]),
            ("/", &["proxy"]),
            ("", &["proxy"]),
            ("/statsx", &["proxy"]),
            ("/podsandmore", &["proxy"]),
            ("//pods", &["proxy"]),
            ("/Pods", &["proxy"]),
            ("/%70ods", &["proxy"]),
            ("/x/pods", &["proxy"]),
        ];
        for (path, expected) in table {
            assert_eq!(subresources(path), *expected, "{path}");
        }
    }

    #[test]
    fn methods_become_verbs() {
        let table = [
            (Method::GET, Some("get")),
            (Method::HEAD, Some("get")),
            (Method::POST, Some("create")),
            (Method::PUT, Some("update")),
            (Method::PATCH, Some("patch")),
            (Method::DELETE, Some("delete")),
            (Method::OPTIONS, None),
            (Method::CONNECT, None),
        ];
        for (method, expected) in table {
            assert_eq!(verb(&method), expected, "{method}");
        }
    }
}
