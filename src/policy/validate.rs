//! Which policies the cache can work by.

use std::time::Duration;

use http::StatusCode;

use super::{Beta, CachePolicy};
use crate::error::ConfigError;
use crate::tag::Tag;

/// Ten years: a longer lifetime is a mistake in units.
const MAX_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The largest limit that can be set: 1 GiB, under what a `LONGBLOB` and a packet can hold.
const LARGEST_MAX_BODY_BYTES: usize = 1 << 30;
/// More would hardly leave a lifetime.
const MAX_JITTER_PERCENT: u8 = 90;
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

impl CachePolicy {
    /// Checks the policy. [`CacheLayer::with_policy`](crate::CacheLayer::with_policy) does so too.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_mysql_cache::CachePolicy;
    /// let error = CachePolicy::new().ttl(Duration::ZERO).validate().unwrap_err();
    /// assert!(error.to_string().contains("it must be between 1 ms and ten years"));
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] with the setting, its value and the rule. Each setting's own documentation has the rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_storing()?;
        self.validate_names()?;
        self.validate_times()
    }

    fn validate_storing(&self) -> Result<(), ConfigError> {
        if !(1..=LARGEST_MAX_BODY_BYTES).contains(&self.max_body_bytes) {
            let rule = "it must be between 1 byte and 1 GiB";
            return Err(ConfigError::new("max_body_bytes", self.max_body_bytes, rule));
        }
        let is_allowed = |status: &StatusCode| {
            (200..600).contains(&status.as_u16()) && !matches!(status.as_u16(), 206 | 304)
        };
        if let Some(status) = self.statuses.iter().find(|status| !is_allowed(status)) {
            let rule = "a status must be between 200 and 599, and neither 206 nor 304";
            return Err(ConfigError::new("statuses", status.as_u16(), rule));
        }
        if let Some(beta) = self.early_refresh.map(Beta::get)
            && !(beta > 0.0 && beta <= 100.0)
        {
            let rule = "it must be over 0 and at most 100";
            return Err(ConfigError::new("early_refresh", beta, rule));
        }
        if self.ttl_jitter_percent > MAX_JITTER_PERCENT {
            let rule = "it must be at most 90 percent";
            return Err(ConfigError::new("ttl_jitter", self.ttl_jitter_percent, rule));
        }
        Ok(())
    }

    fn validate_names(&self) -> Result<(), ConfigError> {
        for tag in self.tags.iter().chain(self.invalidates) {
            Tag::from(*tag).check()?;
        }
        self.cookies.check()
    }

    fn validate_times(&self) -> Result<(), ConfigError> {
        let ttl =
            "it must be between 1 ms and ten years; CachePolicy::bypass() turns the cache off";
        let window = "it must be at most ten years";
        let timeout = "it must be over zero; leave it out to wait for the handler";
        let zero = Duration::ZERO;
        for (setting, value, least, most, rule) in [
            ("ttl", self.ttl, MILLISECOND, MAX_TTL, ttl),
            ("stale_while_revalidate", self.stale_while_revalidate, zero, MAX_TTL, window),
            ("stale_if_error", self.stale_if_error, zero, MAX_TTL, window),
            (
                "handler_timeout",
                self.handler_timeout,
                Duration::from_nanos(1),
                Duration::MAX,
                timeout,
            ),
            ("collapse_wait", Some(self.collapse_wait), zero, HOUR, "it must be at most an hour"),
            (
                "unshareable_for",
                Some(self.unshareable_for),
                zero,
                HOUR * 24,
                "it must be at most a day",
            ),
            ("lease", Some(self.lease), MILLISECOND, HOUR, "it must be between 1 ms and an hour"),
        ] {
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                return Err(ConfigError::new(setting, value, rule));
            }
        }
        Ok(())
    }
}
