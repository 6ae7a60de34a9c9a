//! How does a lookup get from keys to stored responses? Small rows in one round trip, large bodies in a second one.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::{JoinError, spawn_blocking};

use super::super::MySqlStore;
use super::super::codec::{self, Decoded, Hash, RawRow, Reading};
use super::super::lookup::{Answer, Found};
use super::super::sql::MAX_KEYS;
use crate::key::CacheKey;
use crate::store::{Entries as _, StoreError};
use crate::stored::{Stored, StoredOrHead};

impl MySqlStore {
    /// Asks for at most [`MAX_KEYS`] keys.
    fn ask(
        &self,
        keys: &[CacheKey],
        with_newest: bool,
    ) -> Result<oneshot::Receiver<Answer>, StoreError> {
        let hashes: Vec<Hash> = keys.iter().map(CacheKey::hash).collect();
        self.inner.lookups.push(hashes, with_newest)
    }

    /// The rows of these keys. The log is read at the same time: invalidations before this call count. If the log is
    /// quiet, the statement that reads the rows also confirms that the log has nothing new.
    async fn rows(&self, keys: &[CacheKey]) -> Result<Vec<Option<Arc<Found>>>, StoreError> {
        self.inner.running().await?;
        let log = &self.inner.log;
        let quiet = log.is_quiet();
        let log_read = if quiet { None } else { Some(log.request_read()?) };
        let (mut found, mut nothing_new) = (Vec::with_capacity(keys.len()), quiet);
        // so that a very long list does not fill the queue
        for group in keys.chunks(MAX_KEYS * 4) {
            let asked = group.chunks(MAX_KEYS).map(|chunk| self.ask(chunk, quiet));
            for answer in asked.collect::<Result<Vec<_>, _>>()? {
                let rows = answer.await.unwrap_or(Err(StoreError::Unavailable))?;
                nothing_new = nothing_new && log.has_read_up_to(rows.newest, rows.asked);
                found.extend(rows.found);
            }
        }
        match log_read {
            Some(read) => read.await.unwrap_or(Err(StoreError::Unavailable))?,
            None if !nothing_new => log.read_now().await?,
            None => {}
        }
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
        mut found: Arc<Found>,
    ) -> Result<Option<(Stored, u64)>, StoreError> {
        if !found.row.is_current(key, self.now_ms()) {
            return Ok(None);
        }
        if found.is_left_out {
            let answer = self.inner.large.push(vec![key.hash()], false)?;
            let rows = answer.await.unwrap_or(Err(StoreError::Unavailable))?;
            let Some(whole) = rows.found.into_iter().next().flatten() else { return Ok(None) };
            found = whole;
            if !found.row.is_current(key, self.now_ms()) {
                return Ok(None);
            }
        }
        let decoding = found.decoded.get_or_try_init(|| self.decode(&found.row));
        let Ok(decoded) = decoding.await else { return Ok(None) };
        Ok(match codec::reading(decoded, self.now_ms()) {
            Reading::Found(stored) => Some((stored, found.row.expires_ms)),
            Reading::Absent => None,
            Reading::Unreadable => {
                self.inner.shared.unreadable(key.as_bytes());
                None
            }
        })
    }

    /// Decodes a row. A large compressed one is decoded outside the async threads.
    async fn decode(&self, row: &RawRow) -> Result<Decoded, JoinError> {
        if codec::inflates_over(row, self.inner.shared.settings.max_entry_bytes) {
            return Ok(None);
        }
        let row = row.clone();
        if codec::is_slow_to_decode(&row) {
            return spawn_blocking(move || codec::decode(row)).await;
        }
        Ok(codec::decode(row))
    }
}
