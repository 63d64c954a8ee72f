//! Complete lists and single changes, for who wants to replace what it has at once.

use kube::{Resource, runtime::watcher::Event};

use super::Watch;

/// News of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News<K> {
    /// All there are.
    All(Vec<K>),
    /// One is there, like this.
    One(K),
    /// One is gone.
    Gone(K),
}

/// A [`Watch`] whose lists come in one piece. A list counts only once it is complete, an interrupted one changes
/// nothing: so an API server that was away never looks like one without objects.
///
/// The objects of a list are held until it is complete.
#[derive(Debug)]
pub struct WholeLists<K> {
    watch: Watch<K>,
    listed: Vec<K>,
}

impl<K: Resource> WholeLists<K> {
    pub(super) fn new(watch: Watch<K>) -> Self {
        Self { watch, listed: Vec::new() }
    }

    /// As [`Watch::event`].
    pub async fn news(&mut self) -> Option<News<K>> {
        loop {
            match self.watch.event().await? {
                Event::Init => self.listed.clear(),
                Event::InitApply(object) => self.listed.push(object),
                Event::InitDone => return Some(News::All(std::mem::take(&mut self.listed))),
                Event::Apply(object) => return Some(News::One(object)),
                Event::Delete(object) => return Some(News::Gone(object)),
            }
        }
    }
}
