//! What is stored for a target, for people.

use std::sync::Arc;
use std::time::Instant;

use super::{Engine, Route};
use crate::error::ConfigError;
use crate::key::{CacheKey, variant_key};
use crate::store::{Store, StoreError};
use crate::stored::{Stored, StoredHead, StoredResponse};
use crate::tag::Validity;

/// A stored response as a person looks at it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspected {
    /// Its key.
    pub key: CacheKey,
    /// Everything but the body: status, fields, times, tags, position in the log.
    pub head: Arc<StoredHead>,
    /// Bytes of the body.
    pub body_bytes: usize,
    /// What the invalidation log says about it.
    pub validity: Validity,
    /// For how many seconds it is still fresh; negative when it is stale.
    pub ttl_secs: i64,
}

impl<St: Store> Engine<St> {
    /// What is stored for an absolute URI.
    pub(crate) async fn inspect(
        &self,
        route: &Route,
        uri: &str,
    ) -> Result<Vec<Inspected>, StoreError> {
        let (named, with_origin) = route.keys.targets_of_uri(uri)?;
        if !with_origin {
            let rule = "it must be an absolute URI: http://host/path";
            return Err(ConfigError::new("uri", uri, rule).into());
        }
        let began = Instant::now();
        let mut responses = Vec::new();
        let mut targets = Vec::new();
        for target in named {
            let new = self.spellings(route, &target).await?.into_iter();
            targets.extend(new.filter(|target| !targets.contains(target)).collect::<Vec<_>>());
        }
        for target in targets {
            let base = route.keys.base_key(&target, &[]);
            match self.store.get(base.clone()).await? {
                None => {}
                Some(Stored::Response(response)) => responses.push((base, response)),
                Some(Stored::Variants(index)) => {
                    let variants = index.variants.iter();
                    let keys: Vec<_> = variants.map(|v| variant_key(&base, v)).collect();
                    let found = self.store.get_many(keys.clone()).await?;
                    for (key, stored) in keys.into_iter().zip(found) {
                        if let Some(Stored::Response(response)) = stored {
                            responses.push((key, response));
                        }
                    }
                }
            }
        }
        let mut inspected = Vec::with_capacity(responses.len());
        for (key, response) in responses {
            let validity = self.judged(&key, &response, began).await?;
            let ttl_secs = crate::rfc9111::remaining_secs(&response.head, self.store.now_ms());
            let StoredResponse { head, body } = response;
            inspected.push(Inspected { key, head, body_bytes: body.len(), validity, ttl_secs });
        }
        Ok(inspected)
    }
}
