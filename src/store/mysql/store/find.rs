//! How does a lookup get from keys to stored responses? Small rows in one round trip, large bodies in a second one.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::super::MySqlStore;
use super::super::codec::{self, Hash, RawRow, Reading};
use super::super::lookup::{Answer, Found};
use super::super::sql::MAX_KEYS;
use crate::key::CacheKey;
use crate::store::{Entries as _, StoreError};
use crate::stored::{Stored, StoredOrHead};

impl MySqlStore {
    /// Asks for at most [`MAX_KEYS`] keys.
    fn ask(&self, keys: &[CacheKey]) -> Result<oneshot::Receiver<Answer>, StoreError> {
        self.inner.lookups.push(keys.iter().map(CacheKey::hash).collect::<Vec<Hash>>())
    }

    /// The rows of these keys. At the same time, the log is read.
    async fn rows(&self, keys: &[CacheKey]) -> Result<Vec<Option<Found>>, StoreError> {
        self.inner.running().await?;
        // a read that begins after this, whenever the rows are read: invalidations before this call count
        let log_read = self.inner.log.request_read()?;
        let mut found = Vec::with_capacity(keys.len());
        // so that a very long list does not fill the queue
        for group in keys.chunks(MAX_KEYS * 4) {
            let asked = group.chunks(MAX_KEYS).map(|chunk| self.ask(chunk));
            for answer in asked.collect::<Result<Vec<_>, _>>()? {
                found.extend(answer.await.unwrap_or(Err(StoreError::Unavailable))?);
            }
        }
        log_read.await.unwrap_or(Err(StoreError::Unavailable))?;
        Ok(found)
    }

    /// The entries of these keys, with their expiry.
    pub(in super::super) async fn find(
        &self,
        keys: &[CacheKey],
    ) -> Result<Vec<Option<(Stored, u64)>>, StoreError> {
        let mut found = Vec::with_capacity(keys.len());
        for (key, row) in keys.iter().zip(self.rows(keys).await?) {
            found.push(match row {
                Some(row) => self.read(key, row).await?,
                None => None,
            });
        }
        Ok(found)
    }

    /// The entries of these keys, without large bodies.
    pub(in super::super) async fn find_heads(
        &self,
        keys: &[CacheKey],
    ) -> Result<Vec<Option<StoredOrHead>>, StoreError> {
        let mut found = Vec::with_capacity(keys.len());
        for (key, row) in keys.iter().zip(self.rows(keys).await?) {
            let head = row
                .as_ref()
                .filter(|row| row.is_left_out)
                .and_then(|found| codec::decode_head(key, &found.row, found.size, self.now_ms()));
            found.push(match (head, row) {
                (Some((head, body_bytes)), _) => {
                    Some(StoredOrHead::Head { head: Arc::new(head), body_bytes })
                }
                (None, Some(row)) => {
                    let stored = self.read(key, row).await?;
                    stored.map(|(stored, _)| StoredOrHead::Stored(stored))
                }
                (None, None) => None,
            });
        }
        Ok(found)
    }

    /// The entry of a row, with its expiry. A body that was left out is queried together with its head, which may be
    /// newer.
    async fn read(
        &self,
        key: &CacheKey,
        found: Found,
    ) -> Result<Option<(Stored, u64)>, StoreError> {
        let mut row = found.row;
        if found.is_left_out {
            if row.key != key.as_bytes() || row.expires_ms <= self.now_ms() {
                return Ok(None);
            }
            let answer = self.inner.large.push(vec![key.hash()])?;
            let rows = answer.await.unwrap_or(Err(StoreError::Unavailable))?;
            let Some(found) = rows.into_iter().next().flatten() else { return Ok(None) };
            row = found.row;
        }
        let expires_ms = row.expires_ms;
        Ok(self.decode(key, row).await.map(|stored| (stored, expires_ms)))
    }

    /// Decodes a row. A large compressed one is decoded outside the async threads.
    async fn decode(&self, key: &CacheKey, row: RawRow) -> Option<Stored> {
        let now_ms = self.now_ms();
        let max_bytes = self.inner.shared.settings.max_entry_bytes;
        let reading = if codec::inflates_over(&row, max_bytes) {
            Reading::Unreadable
        } else if codec::is_slow_to_decode(&row) {
            let key = key.clone();
            spawn_blocking(move || codec::decode(&key, row, now_ms))
                .await
                .unwrap_or(Reading::Absent)
        } else {
            codec::decode(key, row, now_ms)
        };
        match reading {
            Reading::Found(stored) => Some(stored),
            Reading::Absent => None,
            Reading::Unreadable => {
                self.inner.shared.unreadable(key.as_bytes());
                None
            }
        }
    }
}
