// What a reader looks for is first of all a chapter, then the glossary, then the package.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) =>
    score +
    (docname.startsWith("chapters/") ? 40
      : docname.startsWith("book/glossary") ? 20
      : docname.startsWith("book/reference") ? -10
      : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
