//! Tests of the whole: configurations, the examples, and the documentation.

mod documentation;
mod examples;
mod load;
