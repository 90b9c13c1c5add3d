//! `[fastly.NAME]`.

use std::time::{Duration, Instant};

use testkit::cdn::{Fastly, Fault};
use walpurge::sinks::cdn::CdnLane;

use super::*;

#[track_caller]
fn lane_to(fastly: &Fastly, more: &str) -> CdnLane {
    lane(&format!("[fastly.edge]\n{}{more}", fastly.settings()))
}

#[tokio::test]
async fn keys_go_out_256_at_a_time_and_paths_to_every_host() {
    let fastly = Fastly::start();
    let mut lane = lane_to(&fastly, "hosts = ['www.example.com', 'example.com']");
    let names: Vec<String> = (0..600).map(|at| format!("product-{at}")).collect();
    let mut all = keys(names.iter().map(String::as_str));
    all.push(Action { verb: Verb::PurgePath, value: b"/a%2Fb?c=d e" });
    let report = lane.send(&all).await.unwrap();
    assert_eq!(report.rejected, []);
    assert_eq!(sorted(fastly.keys()), sorted(names));
    assert_eq!(
        sorted(fastly.urls()),
        ["example.com/a%2Fb?c=d%20e", "www.example.com/a%2Fb?c=d%20e"]
    );
    assert_eq!((fastly.server().requests().len(), fastly.soft(), fastly.all()), (5, 0, 0));
}

#[tokio::test]
async fn soft_purges_say_so_and_a_purge_of_everything_is_never_soft() {
    let fastly = Fastly::start();
    let mut lane = lane_to(&fastly, "soft = true\nhosts = ['example.com']");
    lane.send(&keys(["a"])).await.unwrap();
    lane.send(&paths(["/a"])).await.unwrap();
    assert_eq!(fastly.soft(), 2);
    lane.send(&batch([(Verb::PurgeKey, "b"), (Verb::PurgeAll, "*")])).await.unwrap();
    assert_eq!((fastly.soft(), fastly.all()), (2, 1));
    assert_eq!(fastly.keys(), ["a"], "everything covers what is in the batch with it");
}

#[tokio::test]
async fn what_is_no_key_or_path_is_given_up_and_nothing_else_is_purged_for_it() {
    let fastly = Fastly::start();
    let mut lane = lane_to(&fastly, "hosts = ['example.com']");
    let long = "k".repeat(1025);
    let bad = ["a b", "a,b", "a\nb", "", "é", &long];
    let report = lane.send(&keys(["good"].into_iter().chain(bad))).await.unwrap();
    assert_eq!(rejected(&report), [1, 2, 3, 4, 5, 6]);
    assert_eq!(fastly.keys(), ["good"]);
    let bad = ["a", "/a/../b", "/a/%2e%2E/b", "/a/*", "/a*b"];
    let report = lane.send(&paths(["/good\r\n#x"].into_iter().chain(bad))).await.unwrap();
    assert_eq!(rejected(&report), [1, 2, 3, 4, 5]);
    assert_eq!(fastly.urls(), ["example.com/good%0D%0A%23x"]);
    let reasons: String = report.rejected.iter().map(|r| r.reason.as_str()).collect();
    assert!(!reasons.contains("/a"), "a reason holds a value: {reasons}");
}

#[tokio::test]
async fn what_fastly_rejects_is_found_and_the_rest_is_not_lost() {
    let fastly = Fastly::start();
    let mut lane = lane_to(&fastly, "");
    fastly.allow(|rules| {
        rules.bad_keys = vec!["k3".into(), "k200".into()];
        rules.ignored_keys = vec!["k7".into()];
    });
    let names: Vec<String> = (0..300).map(|at| format!("k{at}")).collect();
    let report = lane.send(&keys(names.iter().map(String::as_str))).await.unwrap();
    assert_eq!(rejected(&report), [3, 7, 200]);
    let expected = names.into_iter().filter(|key| !["k3", "k7", "k200"].contains(&key.as_str()));
    assert_eq!(sorted(fastly.keys()), sorted(expected.collect()));
}

#[tokio::test]
async fn nothing_is_sent_before_the_rate_limit_is_reset() {
    let fastly = Fastly::start();
    let mut lane = lane_to(&fastly, "hosts = ['example.com']");
    fastly.allow(|rules| {
        rules.left = Some(5);
        rules.reset_seconds = 1000;
    });
    let all: Vec<String> = (0..40).map(|at| format!("/p/{at}")).collect();
    let batch = paths(all.iter().map(String::as_str));
    assert!(outage(lane.send(&batch).await).contains("the rate limit is used up"));
    let asked = fastly.server().count();
    for _ in 0..10 {
        let said = outage(lane.send(&batch).await);
        assert!(said.contains("wants no request for"), "{said}");
    }
    assert_eq!(fastly.server().count(), asked, "it did not wait");
}

#[tokio::test]
async fn when_the_rate_limit_is_reset_what_was_done_is_not_repeated() {
    let fastly = Fastly::start();
    let mut lane = lane_to(&fastly, "hosts = ['example.com']");
    fastly.allow(|rules| {
        rules.left = Some(5);
        rules.reset_seconds = 1;
    });
    let all: Vec<String> = (0..40).map(|at| format!("/p/{at}")).collect();
    let report = sent(&mut lane, &paths(all.iter().map(String::as_str))).await;
    assert_eq!(report.rejected, []);
    let urls: Vec<String> = all.iter().map(|path| format!("example.com{path}")).collect();
    assert_eq!(sorted(fastly.urls()), sorted(urls), "each once");
}

/// Sends a batch again and again, as the pipeline does, until it is done.
async fn sent(lane: &mut CdnLane, batch: &Batch) -> Report {
    let end = Instant::now() + crate::world::PATIENCE;
    loop {
        match lane.send(batch).await {
            Ok(report) => return report,
            Err(failure) => assert!(Instant::now() < end, "{failure}"),
        }
        // Others work meanwhile.
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_limit_that_is_used_up_by_a_good_answer_is_waited_for_too() {
    let fastly = Fastly::start();
    let mut lane = lane_to(&fastly, "");
    fastly.allow(|rules| {
        rules.left = Some(1);
        rules.reset_seconds = 100;
    });
    lane.send(&keys(["a"])).await.unwrap();
    assert!(outage(lane.send(&keys(["b"])).await).contains("wants no request"));
    assert_eq!(fastly.server().requests().len(), 1);
}

#[tokio::test]
async fn a_request_whose_answer_is_lost_is_made_again() {
    let fastly = Fastly::start();
    let mut lane = lane_to(&fastly, "");
    for fault in [Fault::CutReply, Fault::Refuse, Fault::Status(503), Fault::Status(500)] {
        fastly.server().fail([fault]);
        let message = outage(lane.send(&keys(["secret-key"])).await);
        assert!(!message.contains("secret-key"), "{message}");
    }
    lane.send(&keys(["secret-key"])).await.unwrap();
    assert_eq!(fastly.keys(), ["secret-key", "secret-key"], "the cut answer was to a purge");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_in_time() {
    let fastly = Fastly::start();
    let mut lane = lane_to(&fastly, "");
    fastly.server().fail([Fault::Hang]);
    let start = Instant::now();
    outage(lane.send(&keys(["a"])).await);
    let timeout = walpurge::sinks::cdn::REQUEST_TIMEOUT;
    assert!(start.elapsed() < timeout + Duration::from_secs(5));
    lane.send(&keys(["a"])).await.unwrap();
}

#[tokio::test]
async fn a_token_without_rights_is_refused_with_the_scope_that_it_needs() {
    let fastly = Fastly::start();
    let mut lane = lane_to(&fastly, "hosts = ['other.example.com']");
    fastly.allow(|rules| rules.scopes = vec!["purge_select"]);
    let (message, hint) = refused(lane.send(&everything()).await);
    assert!(message.contains("403") && hint.contains("purge_all"), "{message} {hint}");
    let (_, hint) = refused(lane.send(&paths(["/a"])).await);
    assert!(hint.contains("other.example.com"), "{hint}");
    fastly.allow(|rules| rules.scopes = vec!["purge_all"]);
    let (_, hint) = refused(lane.send(&keys(["a"])).await);
    assert!(hint.contains("purge_select"), "{hint}");
    fastly.allow(|rules| rules.scopes = vec!["purge_select"]);
    lane.send(&keys(["a"])).await.unwrap();

    let settings = fastly.settings().replace(fastly.token(), "another");
    let mut stranger = super::lane(&format!("[fastly.edge]\n{settings}"));
    let (message, hint) = refused(stranger.send(&keys(["a"])).await);
    assert!(message.contains("401") && !hint.contains("another"), "{message} {hint}");
    let settings = fastly.settings().replace(fastly.service(), "other");
    let mut lost = super::lane(&format!("[fastly.edge]\n{settings}"));
    let (_, hint) = refused(lost.send(&keys(["a"])).await);
    assert!(hint.contains("service_id"), "{hint}");
}

#[tokio::test]
async fn requests_are_paced() {
    let fastly = Fastly::start();
    let mut lane = lane_to(&fastly, "hosts = ['example.com']\nmax_requests_per_second = 20");
    let start = Instant::now();
    lane.send(&paths(["/1", "/2", "/3", "/4", "/5", "/6", "/7"])).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
}
