//! Local CDNs: HTTP servers on free ports that keep to what providers document, and remember what
//! was purged.

mod cloudfront;
mod fastly;
mod server;

pub use cloudfront::{CloudFront, CloudFrontRules};
pub use fastly::{Fastly, FastlyRules};
pub use server::{Fault, HttpServer, Request, Response};
