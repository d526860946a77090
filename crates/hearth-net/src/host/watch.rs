//! Hearing at once what somebody changes on our network, long before the next regular look.
//!
//! ```text
//! links, addresses, routes ─► book: was it whole, and is it no more? ─┐
//! tables of our name ───────► other ones than we know? ───────────────┼─► look again
//! messages were lost ─────────────────────────────────────────────────┘
//! ```
//! It only says "look again": what is there is found out by looking. What we do ourselves is
//! left out, or each VM that starts or ends would have everything looked at.

mod book;
mod socket;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use book::Book;
use socket::{Listener, NFT, NFT_TABLES, ROUTE_GROUPS, table_of};

use super::links;
use crate::{NetError, NetworkConfig};

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// A link of ours is not as it was, or the bridge's address or route.
    Links,
    /// A table of our name was written to, by us or by somebody else.
    Tables,
    /// Nothing that is ours.
    Nothing,
}

/// Links that we are taking away: their end is no news.
#[derive(Debug, Default)]
pub(super) struct Leaving(Mutex<BTreeSet<u32>>);

impl Leaving {
    /// The most that are remembered: where nobody listens, nobody takes them out again.
    const MOST: usize = 10_000;

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        // A set of numbers is whole whatever panicked beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// We are about to remove this link.
    pub(super) fn add(&self, index: u32) {
        let mut links = self.lock();
        if links.len() >= Self::MOST {
            links.clear();
        }
        links.insert(index);
    }

    /// It is gone, or stays. Whether it was us.
    pub(super) fn take(&self, index: u32) -> bool {
        self.lock().remove(&index)
    }

    fn has(&self, index: u32) -> bool {
        self.lock().contains(&index)
    }
}

/// Two open ears.
#[derive(Debug)]
pub(super) struct Watch {
    links: Listener,
    tables: Listener,
    book: Book,
}

impl Watch {
    /// Begins to listen, and learns how our links are now.
    pub(super) async fn open(config: &NetworkConfig) -> Result<Self, NetError> {
        let failed = |error| NetError::failed("listen to", "changes of the network", error);
        let links = Listener::open(None, ROUTE_GROUPS).map_err(failed)?;
        let tables = Listener::open(Some(NFT), NFT_TABLES).map_err(failed)?;
        // Looked at after the ears are open: what changes in between is heard.
        let book = Book::of(config, &links::links().await?);
        Ok(Self {
            links,
            tables,
            book,
        })
    }

    /// Waits until the kernel says something.
    pub(super) async fn hear(
        &mut self,
        config: &NetworkConfig,
        leaving: &Leaving,
    ) -> Result<Heard, NetError> {
        let failed = |error| NetError::failed("hear of", "changes of the network", error);
        let (mut of_links, mut of_tables) = (false, false);
        let (book, table) = (&mut self.book, Some(config.table.as_bytes()));
        let links = |message: &[u8]| of_links |= book.hear(config, leaving, message);
        let tables = |message: &[u8]| of_tables |= table_of(message) == table;
        tokio::select! {
            biased;
            lost = self.links.hear(links) => {
                let lost = lost.map_err(failed)?;
                if lost {
                    self.book = Book::of(config, &links::links().await?);
                }
                Ok(if of_links || lost { Heard::Links } else { Heard::Nothing })
            }
            lost = self.tables.hear(tables) => {
                let lost = lost.map_err(failed)?;
                Ok(if of_tables || lost { Heard::Tables } else { Heard::Nothing })
            }
        }
    }
}
