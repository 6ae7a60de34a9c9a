//! How is the handler called, and what happens to its answer?
//!
//! | question | file |
//! |---|---|
//! | What does a client get while its handler runs, fails or is slow? | `call` |
//! | What happens to the answer? | `miss` |
//! | What does a 304 or a `HEAD` change in the stored response? | `validate` |
//! | Which of the client's conditions does the handler see? | `conditions` |
//! | What do the followers get if the answer is an error? | `failure` |
//! | Which calls run in the background? | `refresh` |

mod call;
mod conditions;
mod failure;
mod miss;
mod refresh;
mod validate;

pub(in crate::engine) use self::miss::{BeforeCall, Miss};
pub(in crate::engine) use self::refresh::{Refresh, lead_foreground_refresh};
