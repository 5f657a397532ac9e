use brigade_contracts::{Timestamp, Token};
use serde::Serialize;
use sqlx::types::Json;
use time::OffsetDateTime;

/// Rows turned into columns, as `UNNEST` takes them: one array a column for any number of rows.
pub struct Columns<'a, T>(pub &'a [&'a T]);

impl<'a, T> Columns<'a, T> {
    pub fn text(&self, column: fn(&'a T) -> &'a str) -> Vec<&'a str> {
        self.0.iter().map(|row| column(row)).collect()
    }

    pub fn optional(&self, column: fn(&'a T) -> Option<&'a str>) -> Vec<Option<&'a str>> {
        self.0.iter().map(|row| column(row)).collect()
    }

    pub fn token(&self, column: fn(&'a T) -> Option<&'a Token>) -> Vec<Option<&'a str>> {
        self.0.iter().map(|row| column(row).map(Token::as_str)).collect()
    }

    pub fn number(&self, column: fn(&'a T) -> i64) -> Vec<i64> {
        self.0.iter().map(|row| column(row)).collect()
    }

    pub fn time(&self, column: fn(&'a T) -> Timestamp) -> Vec<OffsetDateTime> {
        self.0.iter().map(|row| column(row).inner()).collect()
    }

    pub fn document<D: Serialize>(&self, column: fn(&'a T) -> D) -> Vec<Json<D>> {
        self.0.iter().map(|row| Json(column(row))).collect()
    }
}
