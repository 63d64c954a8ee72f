//! Places of fields as a person writes them: `tls.ca_file`, `hosts."a.example".port`.

use std::str::FromStr;

use harmony_config::FieldPath;

/// A place that was given as an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field(pub FieldPath);

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "not the place of a field: write names with dots between, and a name that has a dot itself in double \
             quotes, e.g. tls.ca_file or hosts.\"a.example\""
                .to_owned()
        };
        let mut names = Vec::new();
        let mut rest = text;
        loop {
            let (name, after) = match rest.strip_prefix('"') {
                Some(_) => {
                    let mut quoted = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                    let name = quoted.next().and_then(Result::ok).ok_or_else(wrong)?;
                    (name, &rest[quoted.byte_offset()..])
                }
                None => {
                    let end = rest.find('.').unwrap_or(rest.len());
                    (rest[..end].to_owned(), &rest[end..])
                }
            };
            if name.is_empty() {
                return Err(wrong());
            }
            names.push(name);
            match after.strip_prefix('.') {
                Some(after) => rest = after,
                None if after.is_empty() => return Ok(Self(names.into_iter().collect())),
                None => return Err(wrong()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for text in ["host", "tls.ca-file", r#"hosts."a.example".port"#, r#""a\"b".c"#] {
            assert_eq!(text.parse::<Field>().unwrap().0.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["", ".", "a.", ".a", "a..b", r#""a"#, r#""a"b"#, r#""".a"#] {
            assert!(text.parse::<Field>().is_err(), "{text:?}");
        }
    }
}
