//! Calls of the handler, and what becomes of its answer.
//!
//! | question | file |
//! |---|---|
//! | What does a client get while its handler runs, fails or is slow? | `call` |
//! | What becomes of the answer? | `miss` |
//! | What does a 304 or a `HEAD` do to the stored response? | `validate` |
//! | Which of the client's conditions does the handler see? | `conditions` |
//! | What do the followers get of an answer that is an error? | `failure` |
//! | Which calls run behind a response? | `refresh` |

mod call;
mod conditions;
mod failure;
mod miss;
mod refresh;
mod validate;

pub(in crate::engine) use self::miss::{BeforeCall, Miss};
pub(in crate::engine) use self::refresh::{Refresh, lead_foreground_refresh};
