//! Answers of the API server that are believed for a while.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many answers a cache keeps. Above it, expired ones go, then arbitrary ones: whoever floods the cache
/// costs others a question, never memory.
const CAPACITY: usize = 4096;

/// How long an answer is believed.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// A "yes".
    pub positive: Duration,
    /// A "no".
    pub negative: Duration,
}

/// A bounded cache whose entries expire. Failures to ask are not answers and never stored.
#[derive(Debug)]
pub struct AnswerCache<K, V> {
    lifetimes: Lifetimes,
    entries: Mutex<HashMap<K, (Option<V>, Instant)>>,
}

impl<K: Eq + Hash + Clone, V: Clone> AnswerCache<K, V> {
    /// An empty cache.
    pub fn new(lifetimes: Lifetimes) -> Self {
        Self { lifetimes, entries: Mutex::default() }
    }

    /// The answer, if there is one that has not expired: `Some(None)` is a "no".
    pub fn get(&self, key: &K, now: Instant) -> Option<Option<V>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).filter(|(_, expires)| now < *expires).map(|(answer, _)| answer.clone())
    }

    /// Remembers an answer.
    pub fn put(&self, key: K, answer: Option<V>, now: Instant) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= CAPACITY && !entries.contains_key(&key) {
            entries.retain(|_, (_, expires)| now < *expires);
            if entries.len() >= CAPACITY
                && let Some(victim) = entries.keys().next().cloned()
            {
                entries.remove(&victim);
            }
        }
        let lifetime = if answer.is_some() { self.lifetimes.positive } else { self.lifetimes.negative };
        entries.insert(key, (answer, now + lifetime));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes =
        Lifetimes { positive: Duration::from_secs(60), negative: Duration::from_secs(5) };

    #[test]
    fn a_yes_lives_longer_than_a_no() {
        let (cache, start) = (AnswerCache::new(LIFETIMES), Instant::now());
        cache.put("yes", Some(1), start);
        cache.put("no", None, start);
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(cache.get(&"yes", after(4)), Some(Some(1)));
        assert_eq!(cache.get(&"no", after(4)), Some(None));
        assert_eq!(cache.get(&"no", after(5)), None);
        assert_eq!(cache.get(&"yes", after(59)), Some(Some(1)));
        assert_eq!(cache.get(&"yes", after(60)), None);
        assert_eq!(cache.get(&"never asked", start), None);
    }

    #[test]
    fn a_newer_answer_replaces_an_older_one() {
        let (cache, start) = (AnswerCache::new(LIFETIMES), Instant::now());
        cache.put("key", Some(1), start);
        cache.put("key", None, start);
        assert_eq!(cache.get(&"key", start), Some(None));
    }

    #[test]
    fn a_flood_of_keys_does_not_grow_it() {
        let (cache, start) = (AnswerCache::new(LIFETIMES), Instant::now());
        for key in 0..3 * CAPACITY {
            cache.put(key, Some(key), start);
        }
        assert_eq!(cache.entries.lock().unwrap_or_else(PoisonError::into_inner).len(), CAPACITY);
        let newest = 3 * CAPACITY - 1;
        assert_eq!(cache.get(&newest, start), Some(Some(newest)));
    }

    #[test]
    fn expired_answers_go_first() {
        let (cache, start) = (AnswerCache::new(LIFETIMES), Instant::now());
        for key in 0..CAPACITY - 1 {
            cache.put(key, None, start);
        }
        cache.put(CAPACITY, Some(1), start);
        cache.put(CAPACITY + 1, Some(2), start + Duration::from_secs(6));
        let entries = cache.entries.lock().unwrap_or_else(PoisonError::into_inner).len();
        assert_eq!(entries, 2);
    }
}
