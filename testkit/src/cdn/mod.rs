//! Local CDNs: HTTP servers on free ports that keep to what providers document, and remember what
//! was purged; and a real Varnish in front of an application.

mod cloudfront;
mod fastly;
mod origin;
mod server;
mod varnish;

pub use cloudfront::{CloudFront, CloudFrontRules};
pub use fastly::{Fastly, FastlyRules};
pub use origin::Origin;
pub use server::{Fault, HttpServer, Request, Response};
pub use varnish::{Page, Varnish};
