import Testing

@Test func placeholderCairnEngineTests() {}
