import Testing

@Test func placeholderCairnExportTests() {}
