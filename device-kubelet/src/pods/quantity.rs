//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`) as numbers. Pure, exact to a billionth.

const NANO: i128 = 1_000_000_000;

/// The value in billionths, rounded up; `None` if it is not a quantity or too large.
pub fn nanos(text: &str) -> Option<i128> {
    let text = text.trim();
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let split = unsigned.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (multiplier, divisor) = factor(suffix)?;
    let numerator = digits.checked_mul(multiplier)?.checked_mul(NANO)?;
    let denominator = scale.checked_mul(divisor)?;
    let value = numerator.checked_add(denominator - 1)? / denominator;
    Some(if negative { -value } else { value })
}

/// The value in whole units, rounded up.
pub fn ceil(text: &str) -> Option<i64> {
    divide(text, "1")
}

/// The value in thousandths, rounded up.
pub fn millis(text: &str) -> Option<i64> {
    divide(text, "1m")
}

/// How many times `divisor` fits into the value, rounded up: the downward API's rule.
pub fn divide(text: &str, divisor: &str) -> Option<i64> {
    let (value, divisor) = (nanos(text)?, nanos(divisor)?);
    if divisor <= 0 {
        return None;
    }
    i64::try_from(value.checked_add(divisor - 1)?.div_euclid(divisor)).ok()
}

fn factor(suffix: &str) -> Option<(i128, i128)> {
    let binary = |exponent: u32| Some((1_i128 << (10 * exponent), 1));
    let decimal = |exponent: u32| Some((10_i128.pow(exponent), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 18)?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_of_every_notation_are_read() {
        for (text, expected) in [
            ("100m", Some(100)),
            ("2", Some(2000)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.5Ki", Some(1_536_000)),
            ("1e3", Some(1_000_000)),
            ("5e-1", Some(500)),
            ("1u", Some(1)),
            ("", None),
            ("abc", None),
            ("1.2.3", None),
            ("1KiB", None),
        ] {
            assert_eq!(millis(text), expected, "{text}");
        }
        assert_eq!(divide("250m", "1"), Some(1));
        assert_eq!(divide("64Mi", "1Mi"), Some(64));
        assert_eq!(divide("1", "0"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-zA-Z.+-]{0,40}") {
            let _ = (nanos(&text), ceil(&text), millis(&text));
        }

        #[test]
        fn bytes_are_exact(bytes in 0_i64..i64::MAX) {
            prop_assert_eq!(ceil(&bytes.to_string()), Some(bytes));
        }
    }
}
