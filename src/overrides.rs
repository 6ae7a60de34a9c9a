//! One response's word against its route's policy.

use std::time::Duration;

use http::Extensions;

use crate::tag::Tag;

/// Under this name the stored form of a response remembers what its override said of stale windows. It never
/// leaves the process.
pub(crate) const STALE_FIELD: &str = "tower-mysql-cache-stale";

/// What a handler says about one response, in place of its route's policy and of the response's own
/// `Cache-Control`. A response extension; with axum also part of a response:
///
/// ```
/// use std::time::Duration;
/// use tower_mysql_cache::CacheOverride;
///
/// // any tower service
/// let mut response = http::Response::new("rates");
/// CacheOverride::new().ttl(Duration::from_secs(30)).add_to(response.extensions_mut());
///
/// // axum
/// # #[cfg(feature = "axum")]
/// async fn rates() -> impl axum::response::IntoResponse {
///     (CacheOverride::new().ttl(Duration::from_secs(30)), "rates")
/// }
/// ```
///
/// The override never leaves the process: the layer takes it off the response.
///
/// # Several in one response
/// A handler, its extractors and each layer around it may give one. They merge:
///
/// | setting | what counts |
/// |---|---|
/// | tags | all of them |
/// | lifetime, stale windows | the shortest of those that are given |
/// | [`no_store`](Self::no_store) | counts if one says so |
/// | [`shared`](Self::shared), [`with_set_cookie`](Self::with_set_cookie) | count if each override says so that decides about storing; an override with only tags or stale windows does not decide |
///
/// With axum, overrides that are part of a response merge. Anywhere else, give one with
/// [`add_to`](Self::add_to): `response.extensions_mut().insert(..)` replaces the one that is there, with its
/// tags, so that what invalidates these tags no longer invalidates the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheOverride {
    pub(crate) ttl: Option<Duration>,
    pub(crate) no_store: bool,
    pub(crate) shared: bool,
    pub(crate) with_set_cookie: bool,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
    pub(crate) tags: Vec<Tag>,
    /// It says something about storing, and more than tags and windows.
    decides: bool,
}

impl CacheOverride {
    /// Nothing is said.
    pub(crate) const NONE: Self = Self {
        ttl: None,
        no_store: false,
        shared: false,
        with_set_cookie: false,
        stale_while_revalidate: None,
        stale_if_error: None,
        tags: Vec::new(),
        decides: false,
    };

    /// An override that says nothing yet. Its methods can be called in any order.
    #[must_use]
    pub const fn new() -> Self {
        Self::NONE
    }

    /// The response is fresh for `ttl`, whatever its own fields say about its lifetime. Zero: it is not stored.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_mysql_cache::CacheOverride;
    /// let rates = CacheOverride::new().tag("rates").ttl(Duration::from_secs(30));
    /// # let _ = rates;
    /// ```
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self.decides = true;
        self
    }

    /// The response is not stored.
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    /// let draft = CacheOverride::new().no_store();
    /// # let _ = draft;
    /// ```
    #[must_use]
    pub const fn no_store(mut self) -> Self {
        self.no_store = true;
        self.decides = true;
        self
    }

    /// The response has this tag as well: what invalidates the tag invalidates the response. A response
    /// may have any number of tags. One with a tag that is empty or has more than [`Tag::MAX_BYTES`] is
    /// not stored, and an error is logged.
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    /// let product = CacheOverride::new().tag("product:7").tag(format!("shop:{}", 3));
    /// # let _ = product;
    /// ```
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Tag>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The response has these tags as well.
    #[must_use]
    pub fn tags(mut self, tags: impl IntoIterator<Item: Into<Tag>>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// The response may be shared although it says `no-store` or `private`, or although its request
    /// carried cookies or `Authorization`.
    ///
    /// # Warning
    /// **Everybody who asks for this target gets this response.** Use it only where the response
    /// does not depend on who asks.
    #[must_use]
    pub const fn shared(mut self) -> Self {
        self.shared = true;
        self.decides = true;
        self
    }

    /// The response may be stored together with its `Set-Cookie` fields.
    ///
    /// # Warning
    /// **Everybody who asks for this target is sent these cookies.** A session's cookie stored like
    /// this hands one user's session to all others.
    #[must_use]
    pub const fn with_set_cookie(mut self) -> Self {
        self.with_set_cookie = true;
        self.decides = true;
        self
    }

    /// For how long after it has become stale the response may still be served while one request validates
    /// it in the background, in place of its own directive and the policy's
    /// [`stale_while_revalidate`](crate::CachePolicy::stale_while_revalidate); zero forbids it. It does not
    /// lift what the response forbids by `must-revalidate`, `proxy-revalidate`, `no-cache` or `s-maxage`
    /// (RFC 9111 4.2.4). A longer one than a year counts as a year.
    #[must_use]
    pub const fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = Some(window);
        self
    }

    /// For how long after it has become stale the response may be served in place of an error, in place of
    /// its own directive and the policy's [`stale_if_error`](crate::CachePolicy::stale_if_error); zero
    /// forbids it. It lifts no more than [`CacheOverride::stale_while_revalidate`] does.
    #[must_use]
    pub const fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = Some(window);
        self
    }

    /// Adds this to the overrides of a response, for handlers and layers of any tower service. What is there
    /// already is merged with it, not replaced: see [above](Self#several-in-one-response).
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    ///
    /// fn with_tenant<B>(mut response: http::Response<B>) -> http::Response<B> {
    ///     CacheOverride::new().tag("tenant:7").add_to(response.extensions_mut());
    ///     response
    /// }
    /// ```
    pub fn add_to(self, response: &mut Extensions) {
        let merged = match response.remove::<Self>() {
            Some(there) => there.merged_with(self),
            None => self,
        };
        response.insert(merged);
    }

    fn merged_with(self, other: Self) -> Self {
        let decides = self.decides || other.decides;
        let permits = |permits: fn(&Self) -> bool| {
            let says_so = |said: &Self| permits(said) || !said.decides;
            decides && says_so(&self) && says_so(&other)
        };
        let (shared, with_set_cookie) =
            (permits(|said| said.shared), permits(|said| said.with_set_cookie));
        let shorter =
            |one: Option<Duration>, other: Option<Duration>| one.into_iter().chain(other).min();
        let mut tags = self.tags;
        tags.extend(other.tags);
        Self {
            ttl: shorter(self.ttl, other.ttl),
            no_store: self.no_store || other.no_store,
            shared,
            with_set_cookie,
            stale_while_revalidate: shorter(
                self.stale_while_revalidate,
                other.stale_while_revalidate,
            ),
            stale_if_error: shorter(self.stale_if_error, other.stale_if_error),
            tags,
            decides,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn overrides_of_one_response_merge_whatever_their_order() {
        let new = CacheOverride::new;
        let ttl = |seconds| new().ttl(secs(seconds));
        let cases = [
            (vec![new().tag("a"), new().tag("b")], new().tags(["a", "b"])),
            (vec![ttl(9).tag("a"), new().tag("b")], ttl(9).tags(["a", "b"])),
            (vec![ttl(9), ttl(3), ttl(5)], ttl(3)),
            (vec![ttl(0), ttl(3)], ttl(0)),
            (vec![ttl(9).shared(), new().no_store()], {
                CacheOverride { ttl: Some(secs(9)), ..new().no_store() }
            }),
            // who only adds a tag does not speak of sharing, and who gives a lifetime does
            (vec![ttl(9).shared(), new().tag("a")], ttl(9).shared().tag("a")),
            (vec![ttl(9).shared(), ttl(9)], ttl(9)),
            (vec![ttl(9).shared(), new().shared()], ttl(9).shared()),
            (vec![new().with_set_cookie(), new().with_set_cookie()], new().with_set_cookie()),
            (vec![new().shared(), new().with_set_cookie(), new().shared()], {
                CacheOverride { decides: true, ..new() }
            }),
            (
                vec![new().stale_while_revalidate(secs(9)), new().stale_while_revalidate(secs(3))],
                new().stale_while_revalidate(secs(3)),
            ),
            (
                vec![new().stale_if_error(secs(9)).shared(), new().stale_if_error(secs(0))],
                new().stale_if_error(secs(0)).shared(),
            ),
        ];
        for (said, merged) in cases {
            let mut orders = vec![said.clone()];
            orders.push(said.into_iter().rev().collect());
            for order in orders {
                let mut extensions = Extensions::new();
                for said in order {
                    said.add_to(&mut extensions);
                }
                let mut found = extensions.remove::<CacheOverride>().unwrap();
                found.tags.sort_unstable_by_key(|tag| tag.as_bytes().to_vec());
                assert_eq!(found, merged);
            }
        }
    }
}
