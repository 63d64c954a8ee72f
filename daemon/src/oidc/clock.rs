//! The provider's time: what an assertion has to be dated with, whatever this machine's clock says.
//!
//! A Raspberry Pi has no clock that runs without power; without network time it starts with an old one. A
//! provider refuses an assertion that is a minute off, but every answer of it has the time (RFC 9110
//! §6.6.1). The answer came over TLS, so nobody else can set the time by it, and it is used for nothing but
//! the assertion that this provider gets.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What time it is at the provider. It goes on by itself: that this machine's clock is set meanwhile changes
/// nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProviderClock(Option<(Instant, i64)>);

impl ProviderClock {
    /// From the `Date` of an answer that came just now. Without one the clocks are believed to agree.
    pub(super) fn learn(date: Option<&str>) -> Self {
        Self(date.and_then(seconds).map(|seconds| (Instant::now(), seconds)))
    }

    /// The provider's time, in seconds since 1970.
    pub(super) fn now(self) -> i64 {
        let (base, since) = match self.0 {
            Some((learnt, seconds)) => (seconds, learnt.elapsed()),
            None => (0, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        };
        base.saturating_add_unsigned(since.as_secs())
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that is sent (RFC 9110 §5.6.7).
fn seconds(date: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = date.split_once(", ")?;
    let mut words = rest.strip_suffix(" GMT")?.split(' ');
    let number = |word: &str, least: i64, most: i64| {
        let number = word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse::<i64>().ok())??;
        (least..=most).contains(&number).then_some(number)
    };
    let day = number(words.next()?, 1, 31)?;
    let month = words.next()?;
    let month = MONTHS.iter().zip(1..).find_map(|(name, number)| (*name == month).then_some(number))?;
    let year = number(words.next()?, 1970, 9999)?;
    let mut time = words.next()?.split(':');
    let (hour, minute) = (number(time.next()?, 0, 23)?, number(time.next()?, 0, 59)?);
    let second = number(time.next()?, 0, 60)?;
    if words.next().is_some() || time.next().is_some() {
        return None;
    }
    // Years begin in March, so that a leap day is a year's last; 719468 days lie before 1970.
    let (year, month): (i64, i64) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_read() {
        for (date, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Thu, 31 Dec 2099 12:00:00 GMT", 4_102_401_600),
        ] {
            assert_eq!(seconds(date), Some(expected), "{date}");
        }
    }

    #[test]
    fn other_texts_are_no_dates() {
        for text in [
            "",
            "now",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sun, 06 XXX 1994 1:2:3 GMT",
        ] {
            assert_eq!(seconds(text), None, "{text}");
            assert!(ProviderClock::learn(Some(text)).now() > 1_700_000_000, "this machine's own");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,40}", number in any::<u64>()) {
            let _ = seconds(&text);
            let _ = seconds(&format!("Sun, {number} Nov {number} {number}:{number}:{number} GMT"));
        }
    }
}
