//! Credentials other than cookies and `Authorization`: header fields, and users that outer layers know.

use std::fmt;
use std::sync::{Arc, LazyLock};

use http::HeaderName;
use http::request::Parts;

use crate::cookies::Credentials;
use crate::error::ConfigError;

/// Header fields that usually identify a user, in lower case, as in a `HeaderName`.
static CREDENTIALS: [&[&str]; 3] = [KEYS_AND_TOKENS, USERS_OF_PROXIES, CLIENT_CERTIFICATES];

/// API keys and tokens.
const KEYS_AND_TOKENS: &[&str] = &[
    "proxy-authorization",
    "dpop",
    "signature",
    // API keys
    "x-api-key",
    "x-apikey",
    "api-key",
    "apikey",
    "x-functions-key",
    "ocp-apim-subscription-key",
    // tokens
    "x-auth-token",
    "x-access-token",
    "x-session-token",
    "x-session-id",
    "x-user-token",
    "x-csrf-token",
    "x-xsrf-token",
    "x-token",
    "access-token",
    "auth-token",
    "private-token",
    "job-token",
    "x-vault-token",
    "x-shopify-access-token",
    "x-amz-security-token",
    "x-amzn-oidc-data",
    "x-amzn-oidc-accesstoken",
    "x-amzn-oidc-identity",
    "x-goog-iap-jwt-assertion",
    "x-goog-authenticated-user-email",
    "x-goog-authenticated-user-id",
    "cf-access-jwt-assertion",
    "cf-access-authenticated-user-email",
    "cf-access-client-id",
    "cf-access-client-secret",
    "x-ms-client-principal",
    "x-ms-client-principal-id",
    "x-ms-client-principal-name",
    "x-ms-token-aad-access-token",
    "x-ms-token-aad-id-token",
];

/// Users, from authenticating proxies and service meshes.
const USERS_OF_PROXIES: &[&str] = &[
    "remote-user",
    "remote-email",
    "remote-groups",
    "remote-name",
    "x-remote-user",
    "x-user",
    "x-user-id",
    "x-user-email",
    "x-userinfo",
    "x-webauth-user",
    "x-authenticated-user",
    "x-authenticated-userid",
    "x-consumer-id",
    "x-consumer-username",
    "x-credential-identifier",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-access-token",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-auth-request-preferred-username",
    "x-auth-request-access-token",
    "x-authentik-username",
    "x-authentik-uid",
    "x-authentik-email",
    "x-authentik-jwt",
    "tailscale-user-login",
];

/// Certificates of clients (RFC 9440 and its predecessors).
const CLIENT_CERTIFICATES: &[&str] = &[
    "client-cert",
    "client-cert-chain",
    "x-client-cert",
    "x-forwarded-client-cert",
    "x-forwarded-tls-client-cert",
    "x-forwarded-tls-client-cert-info",
    "x-ssl-cert",
    "x-ssl-client-cert",
    "x-ssl-client-dn",
    "x-ssl-client-s-dn",
    "ssl-client-cert",
    "x-amzn-mtls-clientcert",
    "x-amzn-mtls-clientcert-leaf",
    "x-arr-clientcert",
];

/// The names in [`CREDENTIALS`] by their length, so that each field of a request is compared with a few names only.
static BY_LENGTH: LazyLock<Vec<Vec<&str>>> = LazyLock::new(|| {
    let names = || CREDENTIALS.into_iter().flatten().copied();
    let longest = names().map(str::len).max().unwrap_or_default();
    (0..=longest).map(|length| names().filter(|name| name.len() == length).collect()).collect()
});

/// Whether a header field usually identifies a user.
fn is_credential(name: &str) -> bool {
    BY_LENGTH.get(name.len()).is_some_and(|names| names.contains(&name))
}

/// The application's own rule whether a request has credentials.
type CarriesCredentials = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

/// Which requests have credentials other than cookies and `Authorization`.
#[derive(Clone, Default)]
pub(crate) struct CredentialRules {
    named: Vec<HeaderName>,
    left_out: Vec<HeaderName>,
    by: Vec<CarriesCredentials>,
}

impl CredentialRules {
    pub(crate) fn add<I>(&mut self, names: I) -> Result<(), ConfigError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        for name in names {
            let name = parse("credential_headers", name.as_ref())?;
            self.left_out.retain(|left_out| *left_out != name);
            self.named.push(name);
        }
        Ok(())
    }

    pub(crate) fn leave_out<I>(&mut self, names: I) -> Result<(), ConfigError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        for name in names {
            let name = parse("without_credential_headers", name.as_ref())?;
            self.named.retain(|named| *named != name);
            self.left_out.push(name);
        }
        Ok(())
    }

    pub(crate) fn push(&mut self, by: impl Fn(&Parts) -> bool + Send + Sync + 'static) {
        self.by.push(Arc::new(by));
    }

    /// The credentials of a request. With `by_default`, header fields that usually are credentials count too.
    pub(crate) fn examine(&self, request: &Parts, by_default: bool) -> Credentials {
        let is_left_out = |name: &HeaderName| self.left_out.contains(name);
        let counts = |name: &HeaderName| {
            self.named.contains(name)
                || (by_default && is_credential(name.as_str()) && !is_left_out(name))
        };
        if request.headers.keys().any(counts) {
            Credentials::Header
        } else if self.by.iter().any(|carries| carries(request)) {
            Credentials::Extension
        } else {
            Credentials::None
        }
    }
}

fn parse(setting: &'static str, name: &str) -> Result<HeaderName, ConfigError> {
    let rule = "it must be the name of a header field";
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| ConfigError::new(setting, name, rule))
}

impl fmt::Debug for CredentialRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialRules")
            .field("named", &self.named)
            .field("left_out", &self.left_out)
            .field("by", &self.by.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_until_it_is_left_out_and_again_when_named() {
        let mut request = http::Request::new(()).into_parts().0;
        request.headers.insert("x-api-key", http::HeaderValue::from_static("k"));
        let mut rules = CredentialRules::default();
        assert_eq!(rules.examine(&request, true), Credentials::Header);
        assert_eq!(rules.examine(&request, false), Credentials::None);
        rules.leave_out(["X-Api-Key"]).unwrap();
        assert_eq!(rules.examine(&request, true), Credentials::None);
        rules.add(["X-API-KEY"]).unwrap();
        for by_default in [true, false] {
            assert_eq!(rules.examine(&request, by_default), Credentials::Header);
        }
        assert_eq!(rules.add(["a b"]).unwrap_err().setting(), "credential_headers");
    }
}
