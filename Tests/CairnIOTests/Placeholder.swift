import Testing

@Test func placeholderCairnIOTests() {}
