//! A response cache for tower services (axum, hyper) that lives in a MySQL or MariaDB table.
//!
//! Put a [`CacheLayer`] on a router, a route or any tower service. It keeps the responses that may be
//! kept in a table of the database that you already run, serves them from there to every process, and
//! never fails a request because of the cache.
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::{Router, routing::get};
//! use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore};
//!
//! const CATALOGUE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(300));
//!
//! // or MySqlStore::connect("mysql://...").await?
//! let cache = CacheLayer::new(MemoryStore::new()).prefix("shop");
//! let app: Router = Router::new()
//!     .route("/products", get(|| async { "a page that takes long" }).layer(cache.with_policy(CATALOGUE)));
//! ```
//!
//! Four things to learn: [`CacheLayer::new`], [`CacheLayer::with_policy`] for a route,
//! [`CacheOverride`] in a response, and [`CacheHandle`] to invalidate. Everything else has a default
//! that is safe. The layer stores only responses that say how long they stay fresh, or whose route says it. It never stores
//! one that sets a cookie, and one to a request with a cookie, `Authorization`, an API key or another credential only if the
//! response says `public` or `s-maxage`. A handler that answers by anything else that tells users apart must say so
//! ([`guide::storing`]), and a session layer outside the cache needs a [`CacheGuard`]. The [`guide`] has a chapter for each
//! question.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `mysql` | yes | `MySqlStore`, on sqlx |
//! | `axum` | yes | [`CacheOverride`] as part of a response; whole paths inside `nest` |
//! | `tls-rustls` | no | TLS to the database with rustls; for native-tls, enable sqlx's own feature |
//! | `metrics` | no | counters and times of lookups through the `metrics` facade ([`guide::observability`]) |
//! | `serde` | no | policies from files: `Deserialize` and `Serialize` for [`CachePolicy`] ([how](crate::guide::storing#policies-in-files)) |
//! | `zstd` | no | zstd for bodies in the table: `Compression::Zstd` |
//! | `mysql-rsa` | no | passwords over TCP without TLS on MySQL 8 and later ([`guide::table`](crate::guide::table#passwords-and-tls)) |
//!
//! A `MySqlStore` needs a tokio runtime with its timers enabled; a [`MemoryStore`] needs none, and where there is
//! one, its timers.

#[cfg(feature = "axum")]
mod axum;
mod body;
mod clock;
mod cookies;
mod credentials;
mod engine;
mod error;
mod future;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod handle;
pub mod key;
mod layer;
mod overrides;
pub mod policy;
mod reason;
mod rfc9111;
pub mod service;
pub mod status;
pub mod store;
mod stored;
mod sync;
mod tag;
mod telemetry;

#[doc(inline)]
pub use cookies::Cookies;
pub use error::ConfigError;
pub use guard::CacheGuard;
pub use handle::CacheHandle;
pub use layer::CacheLayer;
#[doc(inline)]
pub use overrides::CacheOverride;
#[doc(inline)]
pub use policy::CachePolicy;
#[cfg(feature = "mysql")]
pub use sqlx;
#[doc(inline)]
pub use status::CacheStatus;
#[cfg(feature = "mysql")]
#[doc(inline)]
pub use store::MySqlStore;
#[doc(inline)]
pub use store::{MemoryStore, StoreError, Tiered};

/// Which responses are invalid: tags, and the rows of the invalidation log.
///
/// Most applications use [`Tag`](invalidation::Tag) and [`Invalidation`](invalidation::Invalidation) only. The other types
/// are for stores.
pub mod invalidation {
    pub use crate::tag::{Invalidation, LogPosition, LogRecord, LogRow, Scope, Tag, Validity};
}

/// The names that an application usually needs.
///
/// ```
/// use tower_mysql_cache::prelude::*;
///
/// const PAGE: CachePolicy = CachePolicy::public_page();
/// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").with_policy(PAGE);
/// # let _ = cache;
/// ```
pub mod prelude {
    #[cfg(feature = "mysql")]
    pub use crate::MySqlStore;
    pub use crate::invalidation::{Invalidation, Tag};
    pub use crate::status::StatusField;
    pub use crate::store::BoxStore;
    pub use crate::{
        CacheGuard, CacheHandle, CacheLayer, CacheOverride, CachePolicy, CacheStatus, Cookies,
        MemoryStore, Tiered,
    };
}

/// The guide: a chapter for each question.
pub mod guide {
    #[doc = include_str!("docs/storing.md")]
    pub mod storing {}
    #[doc = include_str!("docs/keys.md")]
    pub mod keys {}
    #[doc = include_str!("docs/table.md")]
    pub mod table {}
    #[doc = include_str!("docs/stale.md")]
    pub mod stale {}
    #[cfg_attr(feature = "mysql", doc = include_str!("docs/invalidation.md"))]
    #[cfg_attr(not(feature = "mysql"), doc = "Needs the feature `mysql`.")]
    pub mod invalidation {}
    #[doc = include_str!("docs/failures.md")]
    pub mod failures {}
    #[doc = include_str!("docs/observability.md")]
    pub mod observability {}
    #[doc = include_str!("docs/rules.md")]
    pub mod rules {}
}

#[cfg(all(doctest, feature = "mysql", feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
