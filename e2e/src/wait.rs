//! Waiting for a condition with a deadline, never for an amount of time.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// How often a condition is looked at. Short, because every look is local.
const INTERVAL: Duration = Duration::from_millis(100);

/// What one look at a condition found.
#[derive(Debug)]
pub enum Look<T> {
    /// The condition holds, and this is what came of it.
    Done(T),
    /// Not yet; what was seen instead, for the message of a time-out.
    NotYet(String),
}

impl<T> Look<T> {
    /// `NotYet` with anything that can be printed.
    pub fn not_yet(seen: impl Display) -> Self {
        Self::NotYet(seen.to_string())
    }
}

/// Looks again and again until the condition holds.
///
/// An error of a look counts as "not yet": servers that come up refuse
/// connections, and the last error stands in the message of the time-out.
///
/// # Errors
/// After `within`, naming what was waited for and what was last seen. A look that
/// hangs is ended at the deadline, too.
pub async fn until<T>(
    what: impl Display,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<Look<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut seen = String::from("nothing yet");
    while Instant::now() < deadline {
        match timeout_at(deadline, look()).await {
            Ok(Ok(Look::Done(value))) => return Ok(value),
            Ok(Ok(Look::NotYet(now))) => seen = now,
            Ok(Err(error)) => seen = format!("{error:#}"),
            Err(_) => break,
        }
        sleep(INTERVAL).await;
    }
    bail!("gave up waiting for {what} after {} s; last seen: {seen}", within.as_secs())
}

/// Checks that a condition stays true for a while, looking at it all the time.
///
/// For what must *not* happen, where no event can be waited for.
///
/// # Errors
/// As soon as a look finds `Look::NotYet`, with what it saw.
pub async fn stays(
    what: impl Display,
    for_: Duration,
    mut look: impl AsyncFnMut() -> Result<Look<()>>,
) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < for_ {
        if let Look::NotYet(seen) = look().await? {
            bail!("{what} did not stay so: after {:?}: {seen}", started.elapsed());
        }
        sleep(INTERVAL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_time_out_says_what_was_last_seen() {
        let mut n = 0;
        let error = until::<()>("ten apples", Duration::from_secs(1), async || {
            n += 1;
            Ok(Look::not_yet(format!("{n} apples")))
        })
        .await;
        let text = error.unwrap_err().to_string();
        assert!(text.contains("ten apples") && text.contains(" apples"), "{text}");
    }

    #[tokio::test]
    async fn an_error_is_not_yet() {
        let mut first = true;
        let value = until("a value", Duration::from_secs(5), async || {
            if std::mem::take(&mut first) {
                anyhow::bail!("refused");
            }
            Ok(Look::Done(7))
        })
        .await;
        assert_eq!(value.unwrap(), 7);
    }
}
