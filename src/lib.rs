//! A response cache for tower services that lives in a MySQL or MariaDB table.

#[cfg(feature = "axum")]
mod axum;
mod body;
mod clock;
mod cookies;
mod engine;
mod error;
mod future;
mod handle;
mod key;
mod layer;
mod overrides;
mod policy;
#[allow(dead_code)]
mod rfc9111;
mod service;
mod status;
mod store;
mod stored;
mod tag;
mod telemetry;

pub use body::CacheBody;
pub use clock::{Clock, ManualClock, SystemClock};
pub use cookies::{Authorization, Cookies};
pub use error::ConfigError;
pub use future::ResponseFuture;
pub use handle::{CacheHandle, CacheStats};
pub use key::{CacheKey, KeyBuilder, KeyRange, MAX_KEY_BYTES, TargetKey};
pub use layer::CacheLayer;
pub use overrides::CacheOverride;
pub use policy::CachePolicy;
pub use rfc9111::NotStored;
pub use service::CacheService;
pub use status::{CacheStatus, Forward, StatusField};
#[cfg(any())]
pub use store::mysql::{MySqlStore, MySqlStoreBuilder};
pub use store::{
    BoxStore, CullReport, MemoryStore, MemoryStoreBuilder, Source, Store, StoreError, StoreStats,
};
pub use stored::{Entry, SelectingField, Stored, StoredHead, StoredResponse, VariantIndex};
pub use tag::{LogPosition, Tag};
pub use telemetry::Counts;
