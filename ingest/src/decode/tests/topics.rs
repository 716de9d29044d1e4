//! Mappings that read the topic of a record.

use super::*;
use crate::topics::Topics;

#[test]
fn a_mapping_reads_the_topic_and_the_position_under_the_topics_own_name() {
    let ids = IdSpace::new(7);
    let mut config = EventConfig::default();
    config.impressions.request_id = FieldSource::Path("@position".to_owned());
    config.actions.action = FieldSource::Path("@topic".to_owned());
    // One topic carries both streams.
    let topics = Topics::named(|_| "web.shop".to_owned());
    let decoder = Decoder::new(ids, vec!["web.shop".to_owned()], config)
        .unwrap()
        .with_topics(topics);
    let shown = json!({"user_id": "u", "item_id": "i", "ts_ms": TS});
    let Ok(Event::Impression(impression)) = decoder
        .decode(&record(Stream::Impressions, shown.to_string()))
        .event
    else {
        panic!()
    };
    assert_eq!(impression.request, ids.id(IdKind::Request, "web.shop/3/42"));
    let acted = json!({"request_id": "r", "user_id": "u", "item_id": "i", "ts_ms": TS});
    let Ok(Event::Action(action)) = decoder.decode(&record(Stream::Actions, acted.to_string())).event else {
        panic!()
    };
    assert_eq!(action.task, 0);
}
