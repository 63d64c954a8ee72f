//! Signs of life: at once when the session opens or the connection comes back, then at the interval that
//! the cluster side wants.

use std::{sync::Arc, time::Duration};

use fleet_daemon::nats::LinkState;
use fleet_wire::{message::Heartbeat, subject::UpVerb};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::{
    channel::{Channel, RequestError},
    driver::SessionView,
};
use crate::pods::Pods;

/// Sends heartbeats for ever; `awake` hears of each, for work that can wait until the device is awake anyway.
pub async fn run(channel: Channel, pods: Pods, mut view: watch::Receiver<SessionView>, awake: Arc<Notify>) {
    let mut connection = channel.connection().state.clone();
    let mut beat = Beat::default();
    loop {
        let (ready, interval) = {
            let view = view.borrow_and_update();
            let connected = *connection.borrow_and_update() == LinkState::Connected;
            // While the device syncs, a heartbeat would only show that it has to.
            (Ready { alive: view.open && connected, settled: !view.syncing }, view.heartbeat)
        };
        beat.update(ready, Instant::now());
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            changed = connection.changed() => if changed.is_err() { return },
            () = at(beat.due) => {
                awake.notify_one();
                let held = pods.held();
                let heartbeat = Heartbeat { set_digest: held.set_digest, desired: held.version };
                match channel.tell(UpVerb::Heartbeat, &heartbeat).await {
                    Ok(()) | Err(RequestError::Disconnected { .. }) => {}
                    Err(error) => tracing::warn!(%error, "a heartbeat was not sent"),
                }
                beat.sent(Instant::now(), interval, rand::random());
            }
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ready {
    alive: bool,
    settled: bool,
}

/// When the next one is due.
#[derive(Debug, Default)]
struct Beat {
    was: Ready,
    due: Option<Instant>,
    regular: bool,
}

impl Beat {
    fn update(&mut self, ready: Ready, now: Instant) {
        let was = std::mem::replace(&mut self.was, ready);
        if !ready.alive {
            self.due = None;
            self.regular = false;
        } else if !was.alive || (ready.settled && !was.settled) {
            // News: who waits for the device should not wait for the interval. A long sync is no reason
            // to fall silent.
            self.due = Some(if ready.settled { now } else { now + Duration::from_secs(5) });
            self.regular = false;
        }
    }

    /// The first regular one comes a random part earlier, so that devices that came together spread.
    fn sent(&mut self, now: Instant, interval: Duration, random: f64) {
        let pause =
            if self.regular { interval } else { interval.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0) };
        self.regular = true;
        self.due = self.was.alive.then(|| now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);
    const OPEN: Ready = Ready { alive: true, settled: true };
    const AWAY: Ready = Ready { alive: false, settled: true };

    #[test]
    fn a_reconnection_is_told_at_once() {
        let now = Instant::now();
        let mut beat = Beat::default();
        beat.update(OPEN, now);
        assert_eq!(beat.due, Some(now));
        beat.sent(now, INTERVAL, 0.0);
        assert_eq!(beat.due, Some(now + INTERVAL / 2), "the first interval is a random part shorter");
        beat.sent(now, INTERVAL, 0.0);
        assert_eq!(beat.due, Some(now + INTERVAL));
        beat.update(AWAY, now);
        assert_eq!(beat.due, None);
        let later = now + INTERVAL * 7;
        beat.update(OPEN, later);
        assert_eq!(beat.due, Some(later));
    }

    #[test]
    fn news_that_change_nothing_do_not_bring_more_heartbeats() {
        let now = Instant::now();
        let mut beat = Beat::default();
        beat.update(OPEN, now);
        beat.sent(now, INTERVAL, 1.0);
        beat.update(OPEN, now + INTERVAL / 2);
        assert_eq!(beat.due, Some(now + INTERVAL));
    }

    #[test]
    fn a_sync_holds_the_first_one_back_but_not_for_long() {
        let now = Instant::now();
        let mut beat = Beat::default();
        beat.update(Ready { alive: true, settled: false }, now);
        assert_eq!(beat.due, Some(now + Duration::from_secs(5)));
        beat.update(OPEN, now);
        assert_eq!(beat.due, Some(now));
    }
}
