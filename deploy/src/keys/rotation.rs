//! Rotation of a static NATS key, in three steps between which both keys work. Pure.
//!
//! ```text
//! begin    next     current             a login: nats-server gets both
//!           │         │                 issuer, xkey: callouts read both
//! use      current  previous            a login: callout or kicker connects with the new one
//!                     │                 issuer, xkey: nats-server gets the new one
//! finish   current    ✗                 the old one is good for nothing
//! ```
//!
//! nats-server takes any number of logins, but one issuer and one xkey. So for logins the server comes first,
//! and for the other two the callouts: they answer each server with the issuer that it expects.

use clap::ValueEnum;

use super::nats::{NatsAuth, Slot, StaticKey};
use crate::error::FleetError;

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// Makes the next key; the present one stays in use.
    Begin,
    /// Makes the next key the present one; the previous one is still accepted.
    Use,
    /// Forgets the previous key.
    Finish,
}

impl NatsAuth {
    /// After a step with these keys. A step that was taken changes nothing.
    ///
    /// # Errors
    /// [`FleetError::Refused`] when another step comes first.
    pub fn rotated(mut self, step: Step, keys: &[StaticKey]) -> Result<Self, FleetError> {
        for key in keys {
            self.step(step, *key)?;
        }
        Ok(self)
    }

    fn step(&mut self, step: Step, key: StaticKey) -> Result<(), FleetError> {
        let name = key.name();
        let has = |slot| self.0.contains_key(&(key, slot));
        let (next, previous) = (has(Slot::Next), has(Slot::Previous));
        match step {
            Step::Begin if previous => Err(FleetError::refused(
                format!("the last rotation of {name} is not finished: its previous key is still accepted"),
                format!("`fleet keys nats-rotate finish {name}`, then begin anew"),
            )),
            Step::Begin if next => Ok(()),
            Step::Begin => {
                self.0.insert((key, Slot::Next), key.fresh()?);
                Ok(())
            }
            Step::Use => {
                let Some(fresh) = self.0.remove(&(key, Slot::Next)) else {
                    return if previous { Ok(()) } else { Err(not_begun(name)) };
                };
                if let Some(old) = self.0.insert((key, Slot::Current), fresh) {
                    self.0.insert((key, Slot::Previous), old);
                }
                Ok(())
            }
            Step::Finish if next => Err(FleetError::refused(
                format!("the next key of {name} is not in use yet"),
                format!("`fleet keys nats-rotate use {name}` comes first"),
            )),
            Step::Finish => {
                self.0.remove(&(key, Slot::Previous));
                Ok(())
            }
        }
    }
}

fn not_begun(name: &str) -> FleetError {
    FleetError::refused(
        format!("there is no next key of {name}"),
        format!("`fleet keys nats-rotate begin {name}` makes one"),
    )
}

/// What people do after a step, before the next one.
pub fn afterwards(step: Step, keys: &[StaticKey]) -> String {
    let logins = names(keys, true);
    let others = names(keys, false);
    let mut todo = Vec::new();
    match step {
        Step::Begin => {
            if !logins.is_empty() {
                todo.push(format!("give nats-server the new configuration and start it again ({logins})"));
            }
            if !others.is_empty() {
                todo.push(format!("start the callouts again, one after the other ({others})"));
            }
        }
        Step::Use => {
            if keys.contains(&StaticKey::Callout) {
                todo.push("start the callouts again, one after the other (callout)".to_owned());
            }
            if keys.contains(&StaticKey::Kicker) {
                todo.push("start the enroller again (kicker)".to_owned());
            }
            if !others.is_empty() {
                todo.push(format!("give nats-server the new configuration and start it again ({others})"));
            }
        }
        Step::Finish => {
            if !logins.is_empty() {
                todo.push(format!(
                    "give nats-server the new configuration and start it again: until then it accepts the old key ({logins})"
                ));
            }
            if !others.is_empty() {
                todo.push(format!("start the callouts again, one after the other ({others})"));
            }
        }
    }
    let keys: Vec<&str> = keys.iter().map(|key| key.name()).collect();
    let then = match step {
        Step::Begin => Some("use"),
        Step::Use => Some("finish"),
        Step::Finish => None,
    };
    let then = then.map(|step| format!("; then `fleet keys nats-rotate {step} {}`", keys.join(" ")));
    format!("next: {}{}", todo.join("; "), then.unwrap_or_default())
}

fn names(keys: &[StaticKey], logins: bool) -> String {
    let names: Vec<&str> = keys.iter().filter(|key| key.is_login() == logins).map(|key| key.name()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::nats::NatsPublic;

    fn keys() -> NatsAuth {
        NatsAuth::default().complete().unwrap().0
    }

    #[test]
    fn both_logins_are_accepted_until_the_rotation_is_finished() {
        let before = keys();
        let old = before.public().unwrap();
        let begun = before.rotated(Step::Begin, &[StaticKey::Callout, StaticKey::Kicker]).unwrap();
        let public = begun.public().unwrap();
        assert_eq!((&public.callout, &public.kicker), (&old.callout, &old.kicker), "the old ones are in use");
        let (next, _) = (public.other_callout.clone().unwrap(), public.other_kicker.clone().unwrap());
        let config = public.server_config();
        assert_eq!(config.matches(&old.callout).count(), 2, "{config}");
        assert_eq!(config.matches(&next).count(), 2, "{config}");

        let used = begun.rotated(Step::Use, &[StaticKey::Callout]).unwrap();
        let public = used.public().unwrap();
        assert_eq!((&public.callout, public.other_callout.as_ref()), (&next, Some(&old.callout)));
        let finished = used.rotated(Step::Finish, &[StaticKey::Callout]).unwrap().public().unwrap();
        assert_eq!((finished.callout, finished.other_callout), (next, None));
        assert!(finished.other_kicker.is_some(), "the other rotation goes on");
    }

    #[test]
    fn the_server_gets_one_issuer_and_callouts_have_both() {
        let before = keys();
        let old = before.public().unwrap();
        let begun = before.rotated(Step::Begin, &[StaticKey::Issuer, StaticKey::Xkey]).unwrap();
        assert_eq!(begun.public().unwrap(), old, "the server's configuration is the old one");
        let entries: Vec<String> = begun.seeds().map(|(entry, _)| entry).collect();
        assert!(entries.contains(&"issuer.next.nk".to_owned()), "{entries:?}");
        let used = begun.rotated(Step::Use, &[StaticKey::Issuer, StaticKey::Xkey]).unwrap();
        let public = used.public().unwrap();
        assert!(public.issuer != old.issuer && public.xkey != old.xkey);
        assert!(!public.server_config().contains(&old.issuer));
        let entries: Vec<String> = used.seeds().map(|(entry, _)| entry).collect();
        assert!(entries.contains(&"issuer.previous.nk".to_owned()), "{entries:?}");
        let NatsPublic { other_callout, other_kicker, .. } = public;
        assert_eq!((other_callout, other_kicker), (None, None));
    }

    #[test]
    fn a_step_that_was_taken_changes_nothing_and_none_is_left_out() {
        let key = [StaticKey::Kicker];
        let keys = keys();
        assert!(keys.clone().rotated(Step::Use, &key).is_err(), "nothing was begun");
        assert_eq!(keys.clone().rotated(Step::Finish, &key).unwrap(), keys);
        let begun = keys.rotated(Step::Begin, &key).unwrap();
        assert_eq!(begun.clone().rotated(Step::Begin, &key).unwrap(), begun);
        assert!(begun.clone().rotated(Step::Finish, &key).is_err(), "the next one is not in use");
        let used = begun.rotated(Step::Use, &key).unwrap();
        assert_eq!(used.clone().rotated(Step::Use, &key).unwrap(), used);
        assert!(used.clone().rotated(Step::Begin, &key).is_err(), "the previous one is still accepted");
        let finished = used.rotated(Step::Finish, &key).unwrap();
        assert_eq!(finished.clone().rotated(Step::Finish, &key).unwrap(), finished);
    }

    #[test]
    fn who_starts_what_again_follows_from_the_key() {
        let begin = afterwards(Step::Begin, &[StaticKey::Kicker]);
        assert!(
            begin.contains("nats-server") && begin.ends_with("`fleet keys nats-rotate use kicker`"),
            "{begin}"
        );
        let using = afterwards(Step::Use, &[StaticKey::Kicker]);
        assert!(using.contains("enroller") && !using.contains("callouts"), "{using}");
        let issuer = afterwards(Step::Begin, &[StaticKey::Issuer]);
        assert!(issuer.contains("callouts") && !issuer.contains("nats-server"), "{issuer}");
    }
}
