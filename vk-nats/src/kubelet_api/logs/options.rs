//! The query of `/containerLogs`: `PodLogOptions`, read and validated as a kubelet reads and validates it.
//! Pure.

use fleet_wire::{
    message::LogsRequest,
    name::{ContainerName, Namespace, PodName, PodUid, RequestId},
};

/// What a reader of logs asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Keep the stream open.
    pub follow: bool,
    /// The container's previous instance.
    pub previous: bool,
    /// Prefix lines with their time.
    pub timestamps: bool,
    /// At most so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only lines younger than so many seconds.
    pub since_seconds: Option<u64>,
    /// Only lines after this RFC 3339 time.
    pub since_time: Option<String>,
}

/// Why a query was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A value that is not of its type.
    #[error("Unable to decode query: {key}={value:?} is not {expected}")]
    Decode {
        /// The parameter.
        key: &'static str,
        /// What it was.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A value out of its range, or two that exclude each other.
    #[error("Invalid request: {0}")]
    Invalid(&'static str),
    /// Something that this side does not do yet.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl LogOptions {
    /// Reads the parameters of a query. Of a parameter given twice the first counts; those that are not
    /// known, and `insecureSkipTLSVerifyBackend` (for the API server), are ignored.
    ///
    /// # Errors
    /// See [`OptionsError`].
    pub fn parse(query: &[(String, String)]) -> Result<Self, OptionsError> {
        let first = |key: &str| query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let flag = |key: &str| first(key).is_some_and(is_true);
        // `tail` is the name of before v1; "all" stands for no limit.
        let tail = match first("tail") {
            Some("all") => None,
            Some(tail) => Some(tail),
            None => first("tailLines"),
        };
        let tail_lines = integer("tailLines", tail)?;
        let limit_bytes = integer("limitBytes", first("limitBytes"))?;
        let since_seconds = integer("sinceSeconds", first("sinceSeconds"))?;
        let since_time = first("sinceTime").filter(|value| !value.is_empty());
        if let Some(value) = since_time
            && value.parse::<jiff::Timestamp>().is_err()
        {
            return Err(OptionsError::Decode {
                key: "sinceTime",
                value: shorten(value),
                expected: "an RFC 3339 time",
            });
        }
        if since_seconds.is_some() && since_time.is_some() {
            return Err(OptionsError::Invalid("at most one of sinceTime or sinceSeconds may be specified"));
        }
        match first("stream").unwrap_or("All") {
            "" | "All" => {}
            "Stdout" | "Stderr" => {
                return Err(OptionsError::Unsupported(
                    "stream=Stdout and stream=Stderr are not available on devices yet: leave stream out to \
                     get both",
                ));
            }
            _ => return Err(OptionsError::Invalid("stream must be one of All, Stdout, Stderr")),
        }
        Ok(Self {
            follow: flag("follow"),
            previous: flag("previous"),
            timestamps: flag("timestamps"),
            tail_lines: at_least(tail_lines, 0, "tailLines must be greater than or equal to 0")?,
            limit_bytes: at_least(limit_bytes, 1, "limitBytes must be greater than 0")?,
            since_seconds: at_least(since_seconds, 1, "sinceSeconds must be greater than 0")?,
            since_time: since_time.map(str::to_owned),
        })
    }

    /// The request for the device.
    pub fn request(
        self,
        stream: RequestId,
        namespace: Namespace,
        pod: PodName,
        uid: Option<PodUid>,
        container: ContainerName,
        credit: u64,
    ) -> LogsRequest {
        LogsRequest {
            stream,
            namespace,
            pod,
            uid,
            container,
            follow: self.follow,
            previous: self.previous,
            timestamps: self.timestamps,
            tail_lines: self.tail_lines,
            limit_bytes: self.limit_bytes,
            since_seconds: self.since_seconds,
            since_time: self.since_time,
            credit,
        }
    }
}

/// API machinery's reading of a flag: present means true, unless it says otherwise.
fn is_true(value: &str) -> bool {
    !(value.eq_ignore_ascii_case("false") || value == "0")
}

fn integer(key: &'static str, value: Option<&str>) -> Result<Option<i64>, OptionsError> {
    value
        .filter(|value| !value.is_empty())
        .map(|value| {
            value.parse().map_err(|_| OptionsError::Decode {
                key,
                value: shorten(value),
                expected: "an integer",
            })
        })
        .transpose()
}

fn at_least(value: Option<i64>, least: u64, otherwise: &'static str) -> Result<Option<u64>, OptionsError> {
    match value.map(u64::try_from) {
        None => Ok(None),
        Some(Ok(value)) if value >= least => Ok(Some(value)),
        Some(_) => Err(OptionsError::Invalid(otherwise)),
    }
}

fn shorten(value: &str) -> String {
    value.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(query: &[(&str, &str)]) -> Result<LogOptions, OptionsError> {
        let query: Vec<_> =
            query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        LogOptions::parse(&query)
    }

    #[test]
    fn an_empty_query_asks_for_everything_once() {
        assert_eq!(parse(&[]).unwrap(), LogOptions::default());
    }

    #[test]
    fn what_kubectl_sends_is_understood() {
        let options = parse(&[
            ("follow", "true"),
            ("previous", "false"),
            ("timestamps", "true"),
            ("tailLines", "10"),
            ("limitBytes", "4096"),
            ("sinceTime", "2026-11-21T09:00:00Z"),
            ("insecureSkipTLSVerifyBackend", "true"),
            ("stream", "All"),
            ("someday", "maybe"),
        ]);
        let expected = LogOptions {
            follow: true,
            previous: false,
            timestamps: true,
            tail_lines: Some(10),
            limit_bytes: Some(4096),
            since_seconds: None,
            since_time: Some("2026-11-21T09:00:00Z".to_owned()),
        };
        assert_eq!(options.unwrap(), expected);
        assert_eq!(parse(&[("sinceSeconds", "30")]).unwrap().since_seconds, Some(30));
        assert_eq!(parse(&[("tailLines", "0")]).unwrap().tail_lines, Some(0));
    }

    #[test]
    fn flags_are_read_as_the_api_machinery_reads_them() {
        for (value, expected) in [
            ("", true),
            ("true", true),
            ("1", true),
            ("yes", true),
            ("false", false),
            ("False", false),
            ("0", false),
        ] {
            assert_eq!(parse(&[("follow", value)]).unwrap().follow, expected, "{value}");
        }
    }

    #[test]
    fn the_old_name_of_tail_lines_still_works() {
        assert_eq!(parse(&[("tail", "5"), ("tailLines", "9")]).unwrap().tail_lines, Some(5));
        assert_eq!(parse(&[("tail", "all"), ("tailLines", "9")]).unwrap().tail_lines, None);
    }

    #[test]
    fn values_out_of_range_are_invalid() {
        let table: &[&[(&str, &str)]] = &[
            &[("tailLines", "-1")],
            &[("limitBytes", "0")],
            &[("limitBytes", "-5")],
            &[("sinceSeconds", "0")],
            &[("sinceSeconds", "-1")],
            &[("sinceSeconds", "5"), ("sinceTime", "2026-11-21T09:00:00Z")],
            &[("stream", "Stdin")],
        ];
        for query in table {
            assert!(matches!(parse(query), Err(OptionsError::Invalid(_))), "{query:?}");
        }
    }

    #[test]
    fn values_of_another_type_cannot_be_decoded() {
        let table = [
            ("tailLines", "ten"),
            ("limitBytes", "1.5"),
            ("sinceSeconds", "99999999999999999999"),
            ("sinceTime", "yesterday"),
        ];
        for (key, value) in table {
            assert!(matches!(parse(&[(key, value)]), Err(OptionsError::Decode { .. })), "{key}={value}");
        }
    }

    #[test]
    fn one_of_the_two_streams_is_refused() {
        assert!(matches!(parse(&[("stream", "Stderr")]), Err(OptionsError::Unsupported(_))));
    }
}
