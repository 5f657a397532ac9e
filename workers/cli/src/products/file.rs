//! A price list as a file: CSV with a header, one product a line.

use std::collections::BTreeMap;

use brigade_contracts::{Currency, Money, Refusal, Text, Token, product::SetProduct};
use csv::{Position, ReaderBuilder, StringRecord, Trim};

/// The columns that a file has to have.
const REQUIRED: [&str; 4] = ["sku", "name", "unit_price", "currency"];
/// The columns that it may have besides.
const OPTIONAL: [&str; 2] = ["category", "available"];

/// A product as a line of the file has it.
#[derive(Debug, PartialEq)]
pub struct FileProduct {
    pub line: usize,
    pub sku: Token,
    pub set: SetProduct,
}

/// Reads all lines.
///
/// # Errors
/// Everything that is wrong, each with its line: nothing of such a file is imported.
pub fn read(file: &str) -> Result<Vec<FileProduct>, Vec<String>> {
    // As some spreadsheets begin a file.
    let file = file.strip_prefix('\u{feff}').unwrap_or(file);
    let mut reader =
        ReaderBuilder::new().trim(Trim::All).flexible(true).from_reader(file.as_bytes());
    let header = reader.headers().cloned().map_err(|error| vec![format!("line 1: {error}")])?;
    check_header(&header).map_err(|error| vec![format!("line 1: {error}")])?;
    let (mut products, mut errors) = (Vec::new(), Vec::new());
    let mut lines: BTreeMap<Token, usize> = BTreeMap::new();
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = line_at(file, error.position());
                errors.push(format!("line {line}: {error}"));
                continue;
            }
        };
        let line = line_at(file, record.position());
        match product(&header, &record, line) {
            Ok(product) => match lines.get(&product.sku) {
                Some(first) => {
                    errors.push(format!("line {line}: {} stands in line {first} too", product.sku));
                }
                None => {
                    lines.insert(product.sku.clone(), line);
                    products.push(product);
                }
            },
            Err(error) => errors.push(format!("line {line}: {error}")),
        }
    }
    if errors.is_empty() { Ok(products) } else { Err(errors) }
}

/// Returns the line of a record, from 1. Its position is before the empty lines in front of it.
fn line_at(file: &str, position: Option<&Position>) -> usize {
    let start = position.and_then(|at| usize::try_from(at.byte()).ok()).unwrap_or_default();
    let rest = file.get(start..).unwrap_or_default();
    let record = rest.trim_start_matches(['\r', '\n']);
    1 + file[..file.len() - record.len()].matches('\n').count()
}

fn check_header(header: &StringRecord) -> Result<(), String> {
    let names: Vec<&str> = header.iter().collect();
    let known = |name: &&str| REQUIRED.contains(name) || OPTIONAL.contains(name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        let all = REQUIRED.iter().chain(&OPTIONAL).copied().collect::<Vec<_>>().join(", ");
        return Err(format!("an unknown column {name:?}; known are {all}"));
    }
    if let Some(name) = REQUIRED.iter().find(|name| !names.contains(name)) {
        return Err(format!("the column {name} is missing"));
    }
    let repeated = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
    repeated.map_or(Ok(()), |(_, name)| Err(format!("the column {name} is there twice")))
}

fn product(
    header: &StringRecord,
    record: &StringRecord,
    line: usize,
) -> Result<FileProduct, String> {
    if record.len() != header.len() {
        return Err(format!("{} fields instead of {}", record.len(), header.len()));
    }
    let field = |name: &str| header.iter().position(|n| n == name).and_then(|at| record.get(at));
    let required = |name: &str| match field(name).filter(|text| !text.is_empty()) {
        Some(text) => Ok(text),
        None => Err(format!("{name} is empty")),
    };
    let of = |name: &'static str| move |refusal: Refusal| format!("{name}: {}", refusal.message);
    let price = required("unit_price")?;
    let price = price.parse().map_err(|_| {
        format!("unit_price: {price:?} is no whole number of the smallest unit: 4.50 is 450")
    })?;
    let category = field("category").filter(|text| !text.is_empty());
    let category = category.map(|text| Text::new(text.to_owned())).transpose();
    let available = match field("available") {
        None | Some("") => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(other) => return Err(format!("available: {other:?} is neither true nor false")),
    };
    Ok(FileProduct {
        line,
        sku: Token::new(required("sku")?).map_err(of("sku"))?,
        set: SetProduct {
            name: Text::new(required("name")?.to_owned()).map_err(of("name"))?,
            unit_price: Money::new(price).map_err(of("unit_price"))?,
            currency: Currency::new(required("currency")?).map_err(of("currency"))?,
            category: category.map_err(of("category"))?,
            available: Some(available.unwrap_or(true)),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_line_by_line() {
        let file = "\u{feff}sku, name ,unit_price,currency,category,available\n\
                    P-1,\"Pizza, large\",1250,EUR,Mains,\n\nW-1,Water,300,EUR,,false\n";
        let products = read(file).unwrap();
        let lines: Vec<_> = products.iter().map(|p| (p.line, p.sku.as_str())).collect();
        assert_eq!(lines, [(2, "P-1"), (4, "W-1")]);
        let SetProduct { name, unit_price, category, available, .. } = &products[0].set;
        assert_eq!((name.as_str(), unit_price.minor_units()), ("Pizza, large", 1250));
        assert_eq!(category.as_ref().map(Text::as_str), Some("Mains"));
        assert_eq!((*available, products[1].set.available), (Some(true), Some(false)));
    }

    #[test]
    fn each_bad_line_is_named() {
        let file = "sku,name,unit_price,currency\n\
                    P-1,Pizza,12.50,EUR\n\
                    P 2,Pizza,1250,EUR\n\
                    P-3,,1250,EUR\n\
                    P-4,Pizza,-1,EUR\n\
                    P-5,Pizza,1250,Euro\n\
                    P-6,Pizza,1250\n\
                    P-7,Pizza,1250,EUR\n\
                    P-7,Pizza,1300,EUR\n";
        let errors = read(file).unwrap_err();
        let begins: Vec<_> = errors.iter().map(|e| e.split(':').next().unwrap()).collect();
        assert_eq!(
            begins,
            ["line 2", "line 3", "line 4", "line 5", "line 6", "line 7", "line 9"],
            "{errors:#?}"
        );
        assert!(errors[6].ends_with("P-7 stands in line 8 too"), "{errors:?}");
    }

    #[test]
    fn a_file_with_other_columns_is_refused() {
        for (header, expected) in [
            ("sku,name,price,currency", "an unknown column \"price\""),
            ("sku,name,currency", "the column unit_price is missing"),
            ("sku,name,unit_price,currency,sku", "the column sku is there twice"),
            ("", "the column sku is missing"),
        ] {
            let errors = read(header).unwrap_err();
            assert!(errors[0].contains(expected), "{errors:?}");
        }
    }
}
