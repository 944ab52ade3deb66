import Testing

@Test func placeholderCairnControlTests() {}
