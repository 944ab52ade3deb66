import Testing

@Test func placeholderCairnCoreTests() {}
