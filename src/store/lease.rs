//! Leases: which of several processes goes inside for a key, and whose write still counts.

use std::time::Duration;

use crate::key::CacheKey;

/// What asking for a lease comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lease {
    /// The caller holds it, under this number: larger than that of every holder before it.
    Granted(u64),
    /// Somebody else holds it.
    Held,
    /// The last holder found that its response is not to be shared, or failed: for so long there is nothing to
    /// wait for.
    Unshareable(Duration),
}

/// What a write has to hold still to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// What the lease is about.
    pub key: CacheKey,
    /// The number of [`Lease::Granted`].
    pub number: u64,
}
